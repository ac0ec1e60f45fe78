package dtm

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/handfast/handfast/internal/address"
	"github.com/handfast/handfast/tc/store"
)

// topicsCat is the only category of DTM's key-value reads, and the space in the store.
const (
	topicsCat   = "topics"
	topicsSpace = "dtm." + topicsCat
)

const (
	maxTopic       = 128 // bytes of a name
	maxSubscribers = 250 // of one topic
	maxRemark      = 1 << 10
)

// subscriber is one address that gets the messages of a topic.
type subscriber struct {
	URL    string `json:"url"`
	Remark string `json:"remark"`
}

// kv is a topic as DTM shows it: V holds its subscribers as JSON.
type kv struct {
	base
	Cat     string `json:"cat"`
	K       string `json:"k"`
	V       string `json:"v"`
	Version uint64 `json:"version"`
}

func (k *kv) subscribers() (out []subscriber, err error) {
	err = json.Unmarshal([]byte(k.V), &out)
	return out, err
}

// topics are who gets which messages. A change is durable, and counts for the next
// message that is prepared or submitted.
type topics struct {
	st  store.Store
	now func() time.Time
	mu  sync.Mutex // one change at a time
}

// get gives a topic; nil where there is none.
func (t *topics) get(name string) (*kv, error) {
	b, err := t.st.Value(topicsSpace, name)
	if b == nil || err != nil {
		return nil, err
	}
	k := &kv{}
	return k, json.Unmarshal(b, k)
}

// put replaces a topic.
func (t *topics) put(k *kv, subs []subscriber) error {
	v, err := json.Marshal(subs)
	if err != nil {
		return err
	}
	k.V, k.UpdateTime = string(v), t.now().UTC()
	k.Version++
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return t.st.SetValue(topicsSpace, k.K, b)
}

// addresses are those of a topic's subscribers.
func (t *topics) addresses(name string) ([]string, error) {
	k, err := t.get(name)
	if err != nil {
		return nil, err
	}
	var subs []subscriber
	if k != nil {
		if subs, err = k.subscribers(); err != nil {
			return nil, err
		}
	}
	if len(subs) == 0 {
		return nil, refuse(other, "topic not found: %.130q has no subscriber", name)
	}
	out := make([]string, len(subs))
	for i := range subs {
		out[i] = subs[i].URL
	}
	return out, nil
}

func checkTopic(topic, url string) error {
	switch {
	case topic == "":
		return refuse(other, "empty topic")
	case url == "":
		return refuse(other, "empty url")
	}
	return nil
}

func (t *topics) subscribe(topic, url, remark string) error {
	if err := checkTopic(topic, url); err != nil {
		return err
	}
	if len(topic) > maxTopic || len(remark) > maxRemark {
		return wrong("topic", "it or its remark is too long: at most %d and %d bytes", maxTopic, maxRemark)
	}
	if !utf8.ValidString(topic) {
		return wrong("topic", "%.130q is no UTF-8", topic) // JSON would show it by another name
	}
	parse := address.ParseGRPC
	if strings.HasPrefix(url, "http://") || strings.HasPrefix(url, "https://") {
		parse = address.ParseHTTP
	}
	if _, err := parse(url); err != nil || len(url) > maxAddress {
		return wrong("url", "%.100q can't be called: %v", url, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.get(topic)
	if err != nil {
		return err
	}
	if k == nil {
		k = &kv{Cat: topicsCat, K: topic, V: "[]", base: base{ID: number(topicsCat, topic), CreateTime: t.now().UTC()}}
	}
	subs, err := k.subscribers()
	switch {
	case err != nil:
		return err
	case slices.ContainsFunc(subs, func(s subscriber) bool { return s.URL == url }):
		return refuse(other, "this url exists")
	case len(subs) >= maxSubscribers:
		return refuse(other, "topic: %.130q has %d subscribers already", topic, len(subs))
	}
	return t.put(k, append(subs, subscriber{url, remark}))
}

func (t *topics) unsubscribe(topic, url string) error {
	if err := checkTopic(topic, url); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.get(topic)
	if err != nil {
		return err
	}
	if k == nil {
		return refuse(other, "no such a topic")
	}
	subs, err := k.subscribers()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(subs, func(s subscriber) bool { return s.URL == url })
	switch {
	case len(subs) == 0:
		return refuse(other, "this topic is empty")
	case at < 0:
		return refuse(other, "no such an url ")
	}
	return t.put(k, slices.Delete(subs, at, at+1))
}

func (t *topics) remove(topic string) error {
	if topic == "" {
		return refuse(other, "empty topic")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.get(topic)
	if err == nil && k == nil {
		err = refuse(other, "storage: NotFound")
	}
	if err != nil {
		return err
	}
	return t.st.SetValue(topicsSpace, topic, nil)
}

// list gives up to limit topics from a name on, and the name to go on with; empty: none.
func (t *topics) list(ctx context.Context, from string, limit int) (out []kv, next string, err error) {
	out = []kv{}
	var broken error
	err = t.st.ListValues(ctx, topicsSpace, from, func(name string, v []byte) bool {
		if len(out) == limit {
			next = name
			return false
		}
		var k kv
		broken = errors.Join(broken, json.Unmarshal(v, &k))
		out = append(out, k)
		return true
	})
	return out, next, errors.Join(err, broken)
}

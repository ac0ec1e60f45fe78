package dtm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/dtm-labs/client/dtmgrpc/dtmgimp"
	"github.com/dtm-labs/client/dtmgrpc/dtmgpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// msg is a message of either client.
type msg interface {
	Prepare(query string) error
	Submit() error
	DoAndSubmit(query string, do func(*dtmcli.BranchBarrier) error) error
	abort() error
}

type webMsg struct{ *dtmcli.Msg }

func (m webMsg) abort() error { return dtmimp.TransCallDtm(&m.TransBase, "abort") }

type grpcMsg struct{ *dtmgrpc.MsgGrpc }

func (m grpcMsg) DoAndSubmit(query string, do func(*dtmcli.BranchBarrier) error) error {
	return m.MsgGrpc.DoAndSubmit(query, do)
}

func (m grpcMsg) abort() error { return dtmgimp.DtmGrpcCall(&m.TransBase, "Abort") }

// msg makes a message to those who have the names. A name with "topic://" is one.
func (w *world) msg(p protocol, gid string, change func(*dtmcli.Msg), names ...string) msg {
	to := func(name string) string {
		if u, err := url.Parse(name); err == nil && u.Scheme != "" {
			return name
		}
		return w.url(p, name)
	}
	if p == overGRPC {
		m := dtmgrpc.NewMsgGrpc(w.GRPC, gid)
		for _, name := range names {
			m.Add(to(name), wrapperspb.String(payload))
		}
		if change != nil {
			change(&m.Msg)
		}
		return grpcMsg{m}
	}
	m := dtmcli.NewMsg(w.HTTP, gid)
	if p == overJSONRPC {
		m.Dtm, m.Protocol = w.JSONRPC, string(p)
	}
	for _, name := range names {
		m.Add(to(name), amount)
	}
	if change != nil {
		change(m)
	}
	return webMsg{m}
}

func TestMessageIsDeliveredToEachInOrder(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.msg(p, gid, nil, "in", "tell").Submit())
		r := w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
		equal(t, "type", r.Transaction.TransType, "msg")
		same(t, "calls", w.log(), []string{"in action", "tell action"})
		c := w.called("tell action", 1)
		same(t, "call", []string{c.Gid, c.Type, c.Branch, c.Op}, []string{gid, "msg", "02", "action"})
		if p != overJSONRPC {
			equal(t, "payload", c.Body, payload)
		}
	})
}

func TestMessageIsDeliveredOnlyAfterItsSubmit(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		m := w.msg(p, gid, nil, "in", "tell")
		check(t, m.Prepare(w.url(overHTTP, "sent")))
		r := w.query(gid)
		equal(t, "status", r.status(), "prepared")
		same(t, "branches", r.rows(), []string{"01 action prepared", "02 action prepared"})
		equal(t, "query", r.Transaction.QueryPrepared, w.url(overHTTP, "sent"))
		equal(t, "calls", len(w.log()), 0)
		check(t, m.Submit())
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
		same(t, "calls", w.log(), []string{"in action", "tell action"})
	})
}

func TestMessageIsDroppedByAbort(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		m := w.msg(p, gid, nil, "in")
		check(t, m.Prepare(w.url(overHTTP, "sent")))
		check(t, m.abort())
		w.ends(gid, "failed", "01 action prepared")
		if err := m.Submit(); err == nil {
			t.Fatal("submitted after the abort")
		}
		equal(t, "calls", len(w.log()), 0)
	})
}

func TestMessageWaitsForItsResult(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.msg(p, gid, func(m *dtmcli.Msg) { m.WaitResult = true }, "in", "tell").Submit())
		equal(t, "status after the answer", w.query(gid).status(), "succeed")
	})
}

func TestMessageIsDeliveredUntilItSucceeds(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", answer(dtmcli.ErrFailure, dtmcli.ErrOngoing))
		gid := w.gid(p)
		check(t, w.msg(p, gid, func(m *dtmcli.Msg) { m.RetryInterval = 1 }, "in", "tell").Submit())
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
		same(t, "calls", w.log(), []string{"in action", "in action", "in action", "tell action"})
	})
}

func TestConcurrentMessageIsDeliveredToAllAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		a, b := newSignal(), newSignal()
		w.on("a action", func(call) error { a.give(); return b.wait() })
		w.on("b action", func(call) error { b.give(); return a.wait() })
		gid := w.gid(p)
		check(t, w.msg(p, gid, func(m *dtmcli.Msg) { m.Concurrent = true }, "a", "b").Submit())
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
	}, overHTTP, overJSONRPC) // the message over gRPC has no such field
}

func TestMessageIsDelayed(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		begin := time.Now()
		check(t, w.msg(p, gid, func(m *dtmcli.Msg) { m.SetDelay(3) }, "in").Submit())
		w.ends(gid, "succeed", "01 action succeed")
		if took := time.Since(begin); took < 2500*time.Millisecond { // a store may keep whole seconds
			t.Fatalf("delivered after %v, want 3s", took)
		}
	})
}

// sent is the address at which the coordinator asks whether the local transaction
// was committed.
func (w *world) sent(p protocol) string {
	if p == overJSONRPC {
		p = overHTTP
	}
	return w.url(p, "sent")
}

func TestMessageWhoseSenderDiedIsDecidedByAskingBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers []error
		status  string
		asked   int
		rows    []string
	}{
		"committed":           {nil, "succeed", 1, []string{"01 action succeed", "02 action succeed"}},
		"rolled back":         {[]error{dtmcli.ErrFailure}, "failed", 1, []string{"01 action prepared", "02 action prepared"}},
		"later":               {[]error{dtmcli.ErrOngoing}, "succeed", 2, []string{"01 action succeed", "02 action succeed"}},
		"unknown, then known": {[]error{errDown}, "succeed", 2, []string{"01 action succeed", "02 action succeed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t := w.t
				w.on("sent msg", answer(c.answers...))
				gid := w.gid(p)
				m := w.msg(p, gid, func(m *dtmcli.Msg) { m.TimeoutToFail, m.RetryInterval = 2, 1 }, "in", "tell")
				check(t, m.Prepare(w.sent(p)))
				w.ends(gid, c.status, c.rows...)
				asked := w.all("sent msg")
				equal(t, "times asked", len(asked), c.asked)
				same(t, "question", []string{asked[0].Gid, asked[0].Type, asked[0].Branch, asked[0].Op}, []string{gid, "msg", "00", "msg"})
				if p != overGRPC && asked[0].Via != "GET" {
					t.Fatalf("asked by %s", asked[0].Via)
				}
			}, overHTTP, overGRPC)
		})
	}
}

func TestDoAndSubmitFollowsItsFunction(t *testing.T) {
	t.Parallel()
	mine := errors.New("broken")
	for name, c := range map[string]struct {
		do     error
		sent   []error // what the sender says when it is asked, success in the end
		want   error
		status string
		calls  []string
	}{
		"success":                          {nil, nil, nil, "succeed", []string{"in action"}},
		"refused":                          {dtmcli.ErrFailure, nil, dtmcli.ErrFailure, "failed", nil},
		"unclear, and it was committed":    {mine, nil, mine, "succeed", []string{"sent msg", "in action"}},
		"unclear, and it was rolled back":  {mine, []error{dtmcli.ErrFailure}, mine, "failed", []string{"sent msg"}},
		"unclear, and unclear when asked":  {mine, []error{errDown}, mine, "succeed", []string{"sent msg", "sent msg", "in action"}},
		"unclear, and going on when asked": {mine, []error{dtmcli.ErrOngoing}, mine, "succeed", []string{"sent msg", "sent msg", "in action"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t := w.t
				w.on("sent msg", answer(c.sent...))
				gid := w.gid(p)
				m := w.msg(p, gid, func(m *dtmcli.Msg) { m.TimeoutToFail, m.RetryInterval = inTime, 1 }, "in")
				if err := m.DoAndSubmit(w.sent(p), func(*dtmcli.BranchBarrier) error { return c.do }); !errors.Is(err, c.want) {
					t.Fatalf("got %v, want %v", err, c.want)
				}
				w.reaches(gid, c.status)
				same(t, "calls", w.log(), c.calls)
			})
		})
	}
}

// subscribe adds a subscriber, over HTTP as by hand or over gRPC.
func (w *world) subscribe(p protocol, topic, to string) error {
	if p == overGRPC {
		_, err := dtmgimp.MustGetDtmClient(w.GRPC).Subscribe(w.t.Context(), &dtmgpb.DtmTopicRequest{Topic: topic, URL: to, Remark: "test"})
		return err
	}
	return w.get("/subscribe?topic=" + url.QueryEscape(topic) + "&remark=test&url=" + url.QueryEscape(to))
}

func (w *world) unsubscribe(p protocol, topic, to string) error {
	if p == overGRPC {
		_, err := dtmgimp.MustGetDtmClient(w.GRPC).Unsubscribe(w.t.Context(), &dtmgpb.DtmTopicRequest{Topic: topic, URL: to})
		return err
	}
	return w.get("/unsubscribe?topic=" + url.QueryEscape(topic) + "&url=" + url.QueryEscape(to))
}

func (w *world) get(path string) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, w.HTTP+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %w", path, resp.Status, err)
	}
	return nil
}

// knows waits until messages to a topic go to as many.
func (w *world) knows(p protocol, topic string, n int) {
	w.t.Helper()
	eventually(w.t, func() error {
		gid := w.gid(p)
		m := w.msg(p, gid, nil, "topic://"+topic)
		if err := m.Prepare(w.sent(p)); err != nil {
			return err
		}
		defer m.abort() //nolint:errcheck // it was only to see its branches
		if got := len(w.query(gid).Branches); got != n {
			return fmt.Errorf("%d subscribers, want %d", got, n)
		}
		return nil
	})
}

func TestMessageGoesToTheSubscribersOfItsTopic(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		topic := "news-" + w.gid(p)
		if err := w.msg(p, w.gid(p), nil, "topic://"+topic).Submit(); err == nil {
			t.Fatal("a topic that nobody made is none")
		}
		check(t, w.subscribe(p, topic, w.url(p, "a")))
		w.knows(p, topic, 1)
		gid := w.gid(p)
		check(t, w.msg(p, gid, nil, "topic://"+topic, "in").Submit())
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed")

		check(t, w.subscribe(p, topic, w.url(p, "b")))
		if err := w.subscribe(p, topic, w.url(p, "b")); err == nil {
			t.Fatal("subscribed twice")
		}
		w.knows(p, topic, 2)
		gid = w.gid(p)
		check(t, w.msg(p, gid, nil, "topic://"+topic, "in").Submit())
		w.ends(gid, "succeed", "01-01 action succeed", "01-02 action succeed", "02 action succeed")
		same(t, "calls", w.log(), []string{"a action", "in action", "a action", "b action", "in action"})

		check(t, w.unsubscribe(p, topic, w.url(p, "a")))
		if err := w.unsubscribe(p, topic, w.url(p, "a")); err == nil {
			t.Fatal("unsubscribed twice")
		}
		w.knows(p, topic, 1)
		gid = w.gid(p)
		check(t, w.msg(p, gid, nil, "topic://"+topic).Submit())
		w.ends(gid, "succeed", "01 action succeed")
		if log := w.log(); !slices.Equal(log[5:], []string{"b action"}) {
			t.Fatalf("calls %q", log)
		}
	})
}

// TestTopicIsKnownAtOnce: who has subscribed gets what is sent after that.
func TestTopicIsKnownAtOnce(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "looks at the topics only now and then")
	w := newWorld(t)
	topic := "news-" + w.gid(overHTTP)
	for n, name := range []string{"a", "b", "c"} {
		check(t, w.subscribe(overHTTP, topic, w.url(overHTTP, name)))
		gid := w.gid(overHTTP)
		check(t, w.msg(overHTTP, gid, nil, "topic://"+topic).Submit())
		if got := len(w.reaches(gid, "succeed").Branches); got != n+1 {
			t.Fatalf("went to %d, want %d", got, n+1)
		}
	}
}

func TestTopicSurvivesTheCoordinator(t *testing.T) {
	t.Parallel()
	w := newWorldToKill(t)
	check(t, w.subscribe(overHTTP, "news", w.url(overHTTP, "a")))
	w.Kill()
	w.Restart()
	gid := w.gid(overHTTP)
	check(t, w.msg(overHTTP, gid, nil, "topic://news").Submit())
	w.ends(gid, "succeed", "01 action succeed")
	same(t, "calls", w.log(), []string{"a action"})
}

func TestPreparedMessageSurvivesTheCoordinator(t *testing.T) {
	t.Parallel()
	w := newWorldToKill(t)
	var submitted, left []string
	for _, p := range []protocol{overHTTP, overGRPC} {
		gid := w.gid(p)
		m := w.msg(p, gid, func(m *dtmcli.Msg) { m.TimeoutToFail, m.RetryInterval = 2*inTime, 1 }, "in")
		check(t, m.Prepare(w.sent(p)))
		left = append(left, gid)
		m = w.msg(p, w.gid(p), func(m *dtmcli.Msg) { m.RetryInterval = 1 }, "tell")
		check(t, m.Prepare(w.sent(p)))
		w.Restart()
		eventually(t, func() error { return m.Submit() }) // a connection may be one of before
		if p == overGRPC {
			submitted = append(submitted, m.(grpcMsg).Gid)
		} else {
			submitted = append(submitted, m.(webMsg).Gid)
		}
	}
	for _, gid := range slices.Concat(submitted, left) {
		w.ends(gid, "succeed", "01 action succeed")
	}
	equal(t, "questions", len(w.all("sent msg")), 2)
}

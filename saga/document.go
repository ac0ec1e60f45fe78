package saga

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

// The documents are a definition as JSON and YAML have it.
type document struct {
	Name            string         `json:"name"`
	Timeout         string         `json:"timeout,omitempty"`
	Retry           *retryDocument `json:"retry,omitempty"`
	Parallel        bool           `json:"parallel,omitempty"`
	ForwardRecovery bool           `json:"forward_recovery,omitempty"`
	Steps           []stepDocument `json:"steps"`
}

type stepDocument struct {
	Name string `json:"name"`
	targetDocument
	After          []string        `json:"after,omitzero"`
	Pivot          bool            `json:"pivot,omitempty"`
	NoCompensation bool            `json:"no_compensation,omitempty"`
	Retry          *retryDocument  `json:"retry,omitempty"`
	Compensate     *targetDocument `json:"compensate,omitempty"`
}

type targetDocument struct {
	HTTP        string            `json:"http,omitempty"`
	GRPC        string            `json:"grpc,omitempty"`
	Handler     string            `json:"handler,omitempty"`
	Group       string            `json:"group,omitempty"`
	Database    string            `json:"database,omitempty"`
	Input       json.RawMessage   `json:"input,omitempty"`
	InputBase64 string            `json:"input_base64,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Timeout     string            `json:"timeout,omitempty"`
	Delay       string            `json:"delay,omitempty"`
	DTM         bool              `json:"dtm,omitempty"`
}

type retryDocument struct {
	First          string `json:"first,omitempty"`
	Max            string `json:"max,omitempty"`
	Percent        uint32 `json:"percent,omitempty"`
	Attempts       uint32 `json:"attempts,omitempty"`
	AttentionAfter uint32 `json:"attention_after,omitempty"`
}

func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func (d *Definition) document() document {
	out := document{
		Name: d.name, Timeout: duration(d.timeout), Retry: describeRetry(d.retry), Parallel: d.parallel, ForwardRecovery: d.forward,
		Steps: make([]stepDocument, 0, len(d.steps)),
	}
	for i := range d.steps {
		s := &d.steps[i]
		doc := stepDocument{
			Name: s.name, targetDocument: describe(s.action), After: s.after, Pivot: s.pivot, NoCompensation: s.noCompensation,
			Retry: describeRetry(s.retry),
		}
		if !s.compensate.IsZero() {
			c := describe(s.compensate)
			doc.Compensate = &c
		}
		out.Steps = append(out.Steps, doc)
	}
	return out
}

func describeRetry(r target.RetryPolicy) *retryDocument {
	if r == (target.RetryPolicy{}) {
		return nil
	}
	return &retryDocument{
		First: duration(r.First), Max: duration(r.Max), Percent: r.Percent, Attempts: r.Attempts, AttentionAfter: r.AttentionAfter,
	}
}

func describe(t target.Target) targetDocument {
	out := targetDocument{
		HTTP: t.HTTP, GRPC: t.GRPC, Handler: t.Handler, Group: t.Group, Headers: t.Headers,
		Timeout: duration(t.Timeout), Delay: duration(t.Delay), DTM: t.DTM,
	}
	if t.Resource != (xid.ResourceID{}) {
		out.Database = t.Resource.String()
	}
	if c, ok := canonical(t.Payload); ok && bytes.Equal(c, t.Payload) {
		out.Input = c
	} else {
		out.InputBase64 = base64.StdEncoding.EncodeToString(t.Payload)
	}
	return out
}

// canonical gives JSON without spaces, with every character as itself where it can be.
func canonical(b []byte) ([]byte, bool) {
	if len(b) == 0 {
		return nil, true
	}
	n, err := readJSON(b)
	if err != nil {
		return nil, false
	}
	if _, key := n.twice(); key != nil {
		return nil, false // it would not be read again
	}
	return n.appendJSON(nil), true
}

// MarshalJSON gives what ParseJSON reads.
func (d *Definition) MarshalJSON() ([]byte, error) {
	if err := d.unencoded(); err != nil {
		return nil, err
	}
	return target.Encode(d.document())
}

// unencoded tells of a payload that could not be encoded when it was set.
func (d *Definition) unencoded() error {
	for i := range d.steps {
		if s := &d.steps[i]; s.err != nil {
			return &Error{Saga: d.name, Step: s.name, Text: "input: " + s.err.Error(), Err: s.err}
		}
	}
	return nil
}

// build makes the definition. at tells where in the text something is.
func (p *parser) build(doc *document) *Definition {
	d := &Definition{
		name: doc.Name, parallel: doc.Parallel, forward: doc.ForwardRecovery, timeout: p.duration("timeout", doc.Timeout),
		retry: p.retry("", doc.Retry),
	}
	for i := range doc.Steps {
		s := &doc.Steps[i]
		at := fmt.Sprintf("steps[%d].", i)
		out := step{name: s.Name, action: p.target(at, &s.targetDocument), after: s.After, pivot: s.Pivot, noCompensation: s.NoCompensation, retry: p.retry(at, s.Retry)}
		if s.Compensate != nil {
			out.compensate = p.target(at+"compensate.", s.Compensate)
			if out.compensate.IsZero() {
				p.fail(at+"compensate", "it is empty; want one of http, grpc and handler, or no_compensation in the step")
			}
		}
		d.steps = append(d.steps, out)
	}
	return d
}

func (p *parser) retry(at string, r *retryDocument) target.RetryPolicy {
	if r == nil {
		return target.RetryPolicy{}
	}
	return target.RetryPolicy{
		First: p.duration(at+"retry.first", r.First), Max: p.duration(at+"retry.max", r.Max),
		Percent: r.Percent, Attempts: r.Attempts, AttentionAfter: r.AttentionAfter,
	}
}

func (p *parser) target(at string, doc *targetDocument) target.Target {
	t := target.Target{
		HTTP: doc.HTTP, GRPC: doc.GRPC, Handler: doc.Handler, Group: doc.Group, Headers: doc.Headers,
		Timeout: p.duration(at+"timeout", doc.Timeout), Delay: p.duration(at+"delay", doc.Delay), DTM: doc.DTM,
	}
	if len(t.Headers) == 0 {
		t.Headers = nil
	}
	var err error
	if doc.Database != "" {
		if t.Resource, err = xid.ParseResourceID(doc.Database); err != nil {
			p.fail(at+"database", "%v", err)
		}
	}
	switch {
	case doc.Input != nil && doc.InputBase64 != "":
		p.fail(at+"input_base64", "there is an input as well; want one of them")
	case doc.Input != nil:
		t.Payload = doc.Input
	case doc.InputBase64 != "":
		if t.Payload, err = base64.StdEncoding.Strict().DecodeString(doc.InputBase64); err != nil {
			p.fail(at+"input_base64", "%v", err)
		}
	}
	return t
}

func (p *parser) duration(at, s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		p.fail(at, "%.40q is no duration; want one such as 1m30s", s)
	}
	return d
}

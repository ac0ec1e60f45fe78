package natsjs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/handfast/handfast/message/broker"
	"github.com/handfast/handfast/target"
)

// lookupTimeout bounds the question whether any stream has a subject. Who may not ask
// gets no answer.
const lookupTimeout = 2 * time.Second

// Publisher publishes to the streams of one JetStream. It may be used concurrently, and
// holds nothing of its own.
type Publisher struct{ js jetstream.JetStream }

var _ broker.Publisher = (*Publisher)(nil)

// New makes a Publisher. js, its domain and its connection stay the caller's, who closes
// the connection once the group is detached. The connection should reconnect without end
// (nats.MaxReconnects(-1)): one that gave up publishes nothing any more.
func New(js jetstream.JetStream) *Publisher { return &Publisher{js: js} }

// Publish implements broker.Publisher: it returns nil when a stream has acknowledged the
// message, also as a duplicate. Headers are passed on as they are, so that those which
// begin with "Nats-" tell JetStream what to do; Nats-Msg-Id is m.ID in any case.
//
// Errors wrap target.ErrAttention where the server says that it does not take the message,
// and those of package jetstream. Without a connection it fails at once.
func (p *Publisher) Publish(ctx context.Context, m broker.Msg) error {
	nc := p.js.Conn()
	if !nc.IsConnected() {
		// The connection would keep the message and send it whenever it is back, which
		// may be after the duplicate window of the attempt that succeeded elsewhere.
		return fmt.Errorf("no connection to NATS: %s%s", strings.ToLower(nc.Status().String()), last(nc))
	}
	if err := checkSubject(m.Subject); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: m.Subject, Data: m.Payload, Header: make(nats.Header, len(m.Headers)+1)}
	for name, value := range m.Headers {
		msg.Header.Set(name, value)
	}
	if _, err := p.js.PublishMsg(ctx, msg, jetstream.WithMsgID(m.ID)); err != nil {
		return p.explain(ctx, msg, err)
	}
	return nil
}

// checkSubject refuses wildcards, which the client and the server let through.
func checkSubject(subject string) error {
	tokens := strings.Split(subject, ".")
	if slices.Contains(tokens, "") || slices.Contains(tokens, "*") || slices.Contains(tokens, ">") {
		return fmt.Errorf("want a subject of words joined with \".\", without wildcards (%w)", target.ErrAttention)
	}
	return nil
}

// explain says what an operator can do about an error.
func (p *Publisher) explain(ctx context.Context, m *nats.Msg, err error) error {
	nc := p.js.Conn()
	var refused *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %d bytes with headers; the server takes at most %d, its max_payload (%w)", err, m.Size()-len(m.Subject), nc.MaxPayload(), target.ErrAttention)
	case errors.Is(err, nats.ErrBadSubject):
		return fmt.Errorf("%w (%w)", err, target.ErrAttention)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return p.noStream(ctx, m.Subject, err)
	case errors.As(err, &refused) && refused.Code >= 400 && refused.Code < 500:
		return fmt.Errorf("the stream refuses it: %w (%w)", refused, target.ErrAttention)
	case ctx.Err() != nil:
		return fmt.Errorf("no acknowledgement in time%s: %w", last(nc), err)
	}
	return err
}

// noStream tells whether nobody has answered because no stream has the subject, or for
// a moment, as while a cluster elects a leader.
func (p *Publisher) noStream(ctx context.Context, subject string, err error) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	if _, no := p.js.StreamNameBySubject(ctx, subject); errors.Is(no, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("no stream has the subject; create one, or add the subject to one (%w)", target.ErrAttention)
	}
	return fmt.Errorf("%w; a stream may be without a leader, or may just have been removed", err)
}

// last is the connection's last error, where it has one: what the server says against
// a user who may not publish comes by that way alone.
func last(nc *nats.Conn) string {
	if err := nc.LastError(); err != nil {
		return fmt.Sprintf(" (last error of the connection: %v)", err)
	}
	return ""
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/target"
)

const (
	// Handler is the name under which Register puts a Publisher on a group.
	Handler = "publish"
	// HeaderSubject is the header of a target that names the subject. It is not passed
	// on to the broker.
	HeaderSubject = "Broker-Subject"
	// MaxSubject is the length of the longest subject, in bytes.
	MaxSubject = 255
)

// Msg is a message on its way into a broker.
type Msg struct {
	// Subject is where it goes: a subject, topic or routing key.
	Subject string
	// ID is the same for every attempt, and of no other message: the key of the
	// identity (target.Identity.Key), of 96 to 98 letters, digits and hyphens.
	ID string
	// Payload is at most target.MaxPayload bytes, and may be empty. It must not be
	// changed.
	Payload []byte
	// Headers are those of the target, and the five that name the call (package
	// xid/action), which fence.FromValues reads. The map belongs to the Publisher.
	Headers map[string]string
}

// Publisher puts messages into a broker. It may be called concurrently.
//
// Publish returns nil once the broker has acknowledged that it keeps the message, and
// not before: nobody publishes it again then. It gives up when ctx ends, which is after
// target.Timeout, 10 s by default. It should fail at once where there is no connection,
// and not queue the message: another process may have one.
//
// After an error the message is published again, with the same ID. The error says what is
// wrong in a way that an operator understands; its first 1,024 bytes are kept. It wraps
// target.ErrAttention where the broker was asked and will not take the message until
// somebody changes something. target.ErrFailed is taken for that as well: nobody knows
// whether an earlier attempt arrived, so nothing may be called failed without effect.
type Publisher interface {
	Publish(ctx context.Context, m Msg) error
}

// Register has what is sent to the group, see To, published by p, and gives the group
// back. A group has one Publisher; a second broker gets a second group. What is wrong
// is told by handlers.Group.Attach.
func Register(g *handlers.Group, p Publisher) *handlers.Group {
	if p == nil {
		return g.Handle(Handler, nil) // which Attach reports
	}
	return g.Handle(Handler, func(ctx context.Context, c handlers.Call) ([]byte, error) {
		m, err := message(c)
		if err != nil {
			return nil, err
		}
		if err := p.Publish(ctx, m); err != nil {
			return nil, refusal(fmt.Errorf("publish to %q: %w", m.Subject, err))
		}
		return nil, nil
	})
}

// refusal makes an error one that claims nothing about earlier attempts.
func refusal(err error) error {
	if errors.Is(err, target.ErrFailed) {
		return fmt.Errorf("%v (%w)", err, target.ErrAttention) //nolint:errorlint // it must not be ErrFailed any more
	}
	return err
}

// message is what a call asks to publish.
func message(c handlers.Call) (Msg, error) {
	m := Msg{ID: c.Key(), Payload: c.Payload, Headers: make(map[string]string, len(c.Headers)+4)}
	maps.Copy(m.Headers, c.Headers)
	m.Subject = m.Headers[HeaderSubject]
	delete(m.Headers, HeaderSubject)
	if text := check(m.Subject); text != "" {
		return m, fmt.Errorf("header %s: %s; make the target with broker.To (%w)", HeaderSubject, text, target.ErrAttention)
	}
	h := http.Header{}
	c.Set(h)
	for name := range h {
		m.Headers[name] = h.Get(name)
	}
	return m, nil
}

// To is a target: the subject, in the broker of the group. Options are those of package
// target; target.Payload is the message, and target.Header adds a header to it. It goes
// wherever a target goes: message.Message.To, rm.Publish, a step of a saga.
//
// Validate refuses a subject that is empty, longer than MaxSubject, or not made of
// printable ASCII characters other than the space. Whether the broker takes it is found
// out by the delivery.
func To(group, subject string, opts ...target.Option) target.Target {
	t := target.Handler(group, Handler, opts...)
	if text := check(subject); text != "" {
		target.Invalid("subject", text)(&t)
	}
	target.Header(HeaderSubject, subject)(&t)
	return t
}

// check tells what is wrong with a subject; "" for nothing.
func check(subject string) string {
	switch {
	case subject == "":
		return `empty; want a subject such as "orders.placed"`
	case len(subject) > MaxSubject:
		return fmt.Sprintf("%d bytes long; want at most %d", len(subject), MaxSubject)
	case strings.ContainsFunc(subject, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return fmt.Sprintf("%.40q; want printable ASCII characters without a space", subject)
	}
	return ""
}

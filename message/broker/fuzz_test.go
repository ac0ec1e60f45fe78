package broker

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/internal/address"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/action"
)

// Whatever headers a target may have, the message that goes to the broker names the call
// that it belongs to, and no other; and a subject is one, or a person has to look.
func FuzzMessage(f *testing.F) {
	f.Add("orders.placed", "x", "y", []byte("1"), uint32(1), uint8(1))
	f.Add("a b", "Handfast-Action", "rollback", []byte{}, uint32(0), uint8(2))
	f.Add("", "broker-subject", "z", []byte{}, uint32(1<<32-1), uint8(3))
	f.Add("\x7f", "Broker-Subject", "other", []byte{}, uint32(1), uint8(0))
	f.Add(strings.Repeat("x", 256), "", "", []byte{}, uint32(1), uint8(9))
	f.Fuzz(func(t *testing.T, subject, name, value string, payload []byte, attempt uint32, op uint8) {
		if address.CheckHeaderName(address.Handler, name) != nil || address.CheckHeaderValue(address.Handler, name, value) != nil {
			return // no target has it
		}
		c := handlers.Call{Payload: payload, Headers: map[string]string{name: value, HeaderSubject: subject}}
		c.XID, c.Branch = xid.New(xid.Parts{Incarnation: 1, Counter: uint64(op)}), xid.BranchID{1}
		c.Action, c.Attempt = action.Action(op%3+1), attempt
		m, err := message(c)
		if (err == nil) != (To("g", subject).Validate() == nil) || err != nil && !errors.Is(err, target.ErrAttention) {
			t.Fatalf("subject %q: %v, and as a target %v", subject, err, To("g", subject).Validate())
		}
		if err != nil {
			return
		}
		if m.Subject != subject || string(m.Payload) != string(payload) || m.ID != c.Key() || m.Headers[HeaderSubject] != "" || len(c.Headers) > 2 {
			t.Fatalf("%+v of %+v", m, c)
		}
		h := http.Header{}
		for name, v := range m.Headers {
			h.Add(name, v) // a consumer may not tell small letters from capitals
		}
		got, err := fence.FromValues(h.Values)
		if err != nil || got.Key() != c.Key() || name != HeaderSubject && m.Headers[name] != value {
			t.Fatalf("the consumer reads %+v, %v of %v", got, err, m.Headers)
		}
	})
}

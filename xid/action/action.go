// Package action is the identity of a call: what the coordinator sends along with
// every call of an action, over HTTP, over gRPC and to handlers. Services know it as
// target.Identity and fence.Call.
//
//	coordinator                                       service
//	package tc/caller  -- Handfast-Action-Xid ----->  package fence, or your own
//	                      Handfast-Branch             bookkeeping with the key
//	                      Handfast-Action
//	                      Handfast-Attempt
//	                      Handfast-Idempotency-Key
//
// None of them is [xid.Header], which carries the XID of a context from service to
// service. So whoever is called does not join the transaction by mistake: what an
// action does in a database is undone by its compensation, and not by AT mode as well.
package action

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"google.golang.org/grpc/metadata"

	"github.com/handfast/handfast/xid"
)

// The HTTP headers; in lower case they are the keys of gRPC metadata.
const (
	HeaderXID     = "Handfast-Action-Xid"      // 56 lower-case letters and digits
	HeaderBranch  = "Handfast-Branch"          // 32 hexadecimal digits
	HeaderAction  = "Handfast-Action"          // forward, commit or rollback
	HeaderAttempt = "Handfast-Attempt"         // from 1, decimal; may be missing
	HeaderKey     = "Handfast-Idempotency-Key" // Call.Key; may be missing
)

// Prefix begins, in lower case, every name that is the coordinator's, [xid.Header] too.
const Prefix = "handfast-"

// Action is what is asked of a branch. The zero Action is none. The numbers are those
// of the wire.
type Action uint8

// The actions.
const (
	Forward  Action = iota + 1 // Try of TCC, a step of a saga or a workflow, a delivery, a check-back
	Commit                     // Confirm of TCC
	Rollback                   // Cancel of TCC, a compensation
)

// String gives the text form: "forward", "commit" or "rollback".
func (a Action) String() string {
	switch a {
	case Forward:
		return "forward"
	case Commit:
		return "commit"
	case Rollback:
		return "rollback"
	default:
		return "Action(" + strconv.Itoa(int(a)) + ")"
	}
}

// Parse reads the text form.
func Parse(s string) (Action, error) {
	for a := Forward; a <= Rollback; a++ {
		if s == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("action %.40q: want forward, commit or rollback", s)
}

// Call is the identity of one call of an action. Calls with the same XID, Branch and
// Action are the same call: a participant makes its effect once, however often it
// arrives. The values are comparable.
type Call struct {
	XID    xid.ID
	Branch xid.BranchID
	Action Action
	// Attempt counts the times that the call was sent, from 1; 0 where that was not
	// told. It is for logs and is no part of the identity.
	Attempt uint32
}

// Key is the identity as one text, the same for every attempt: 96 to 98 letters,
// digits and hyphens. It is for participants that keep records of their own, or hand
// it to a payment provider.
func (c Call) Key() string {
	return c.XID.String() + "-" + c.Branch.String() + "-" + c.Action.String()
}

// String names the call for logs and errors.
func (c Call) String() string {
	return fmt.Sprintf("%s of branch %s of %s", c.Action, c.Branch, c.XID)
}

// Set names the call in the headers of a request to a participant, in place of any
// other call. It takes the header out that would let the participant join the
// transaction. A call that lacks a part is refused by its receiver.
func (c Call) Set(h http.Header) { c.put(h.Set, h.Del) }

// Outgoing is Set for outgoing gRPC metadata: that of ctx, with the call, is in the
// context that it returns. That context carries no XID, so that no interceptor adds one.
func (c Call) Outgoing(ctx context.Context) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	if !ok {
		md = metadata.MD{}
	}
	c.put(func(k, v string) { md.Set(k, v) }, md.Delete)
	return metadata.NewOutgoingContext(xid.NewContext(ctx, xid.ID{}), md)
}

func (c Call) put(set func(name, value string), del func(name string)) {
	del(xid.Header)
	del(HeaderAttempt)
	c.Each(set)
}

// Each gives the name and value of each header.
func (c Call) Each(set func(name, value string)) {
	set(HeaderXID, c.XID.String())
	set(HeaderBranch, c.Branch.String())
	set(HeaderAction, c.Action.String())
	set(HeaderKey, c.Key())
	if c.Attempt > 0 {
		set(HeaderAttempt, strconv.FormatUint(uint64(c.Attempt), 10))
	}
}

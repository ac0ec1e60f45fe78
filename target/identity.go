package target

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"google.golang.org/grpc/metadata"

	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/action"
)

// Op is which action of a branch is called. The numbers are those of the wire and of
// package fence.
type Op uint8

// The actions of a branch.
const (
	Forward  Op = iota + 1 // Try of TCC, a step of a saga, a delivery, a workflow, a check-back
	Commit                 // Confirm of TCC
	Rollback               // Cancel of TCC, a compensation
)

// String gives the text form: "forward", "commit" or "rollback".
func (o Op) String() string {
	switch o {
	case Forward:
		return "forward"
	case Commit:
		return "commit"
	case Rollback:
		return "rollback"
	default:
		return "Op(" + strconv.Itoa(int(o)) + ")"
	}
}

// The HTTP headers, and in lower case the keys of gRPC metadata, that name a call.
// Package fence reads them.
const (
	HeaderXID     = action.HeaderXID
	HeaderBranch  = action.HeaderBranch
	HeaderOp      = action.HeaderAction
	HeaderAttempt = action.HeaderAttempt
	HeaderKey     = action.HeaderKey
)

// Identity names one call of one action. Attempts of the same call have the same
// XID, Branch and Op; a participant makes the effect once per these three.
type Identity struct {
	XID    xid.ID
	Branch xid.BranchID
	Op     Op
	// Attempt counts from 1; it is for logs and is no part of what is the same call.
	Attempt uint32
}

// Key is the identity as one text, the same for every attempt, for participants that
// keep their own records or hand it to a payment provider.
func (i Identity) Key() string {
	return i.XID.String() + "-" + i.Branch.String() + "-" + i.Op.String()
}

// String names the call for logs and errors.
func (i Identity) String() string {
	return fmt.Sprintf("%s of branch %s of %s", i.Op, i.Branch, i.XID)
}

// Set names the call in the headers of a request to a participant. It takes the
// header out that would let the participant join the transaction.
func (i Identity) Set(h http.Header) {
	h.Del(xid.Header)
	for k, v := range i.pairs() {
		h.Set(k, v)
	}
}

// Outgoing is Set for the outgoing gRPC metadata of the context that it returns. That
// context carries no XID, so that no interceptor adds one.
func (i Identity) Outgoing(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx) // a copy
	if md == nil {
		md = metadata.MD{}
	}
	md.Delete(xid.Header)
	for k, v := range i.pairs() {
		md.Set(k, v)
	}
	return metadata.NewOutgoingContext(xid.NewContext(ctx, xid.ID{}), md)
}

func (i Identity) pairs() map[string]string {
	return map[string]string{
		HeaderXID: i.XID.String(), HeaderBranch: i.Branch.String(), HeaderOp: i.Op.String(),
		HeaderAttempt: strconv.FormatUint(uint64(max(i.Attempt, 1)), 10), HeaderKey: i.Key(),
	}
}

// Package action names what the coordinator sends along with every call of an
// action, over HTTP and over gRPC.
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

import "github.com/handfast/handfast/xid"

// The HTTP headers; in lower case they are the keys of gRPC metadata.
const (
	HeaderXID     = "Handfast-Action-Xid"      // 56 lower-case letters and digits
	HeaderBranch  = "Handfast-Branch"          // 32 hexadecimal digits
	HeaderAction  = "Handfast-Action"          // Forward, Commit or Rollback
	HeaderAttempt = "Handfast-Attempt"         // from 1, decimal; may be missing
	HeaderKey     = "Handfast-Idempotency-Key" // what Key gives
)

// Prefix begins, in lower case, every name that is the coordinator's, [xid.Header] too.
const Prefix = "handfast-"

// The values of HeaderAction.
const (
	Forward  = "forward"
	Commit   = "commit"
	Rollback = "rollback"
)

// Key is the identity of one action as one text, the same for every attempt.
func Key(id xid.ID, branch xid.BranchID, action string) string {
	return id.String() + "-" + branch.String() + "-" + action
}

package target

import "github.com/handfast/handfast/xid/action"

// Identity names one call of one action: XID, Branch, Action and Attempt. Attempts of
// the same call have the same XID, Branch and Action; a participant makes the effect
// once per these three. It is what package fence takes as a Call.
type Identity = action.Call

// The actions of a branch.
const (
	Forward  = action.Forward  // Try of TCC, a step of a saga or a workflow, a delivery, a check-back
	Commit   = action.Commit   // Confirm of TCC
	Rollback = action.Rollback // Cancel of TCC, a compensation
)

// The HTTP headers, and in lower case the keys of gRPC metadata, that name a call.
// Package fence reads them.
const (
	HeaderXID     = action.HeaderXID
	HeaderBranch  = action.HeaderBranch
	HeaderAction  = action.HeaderAction
	HeaderAttempt = action.HeaderAttempt
	HeaderKey     = action.HeaderKey
)

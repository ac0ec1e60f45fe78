package core

import "github.com/handfast/handfast/xid"

// About tells which transaction an input is about, and whether it asks for
// one that may be finished.
func About(in Input) (id xid.ID, asks bool) {
	switch in := in.(type) {
	case Begin:
		return in.XID, false
	case Register:
		return in.XID, true
	case Submit:
		return in.XID, true
	case CastVote:
		return in.XID, true
	case Commit:
		return in.XID, true
	case Rollback:
		return in.XID, true
	case Get:
		return in.XID, true
	case Wait:
		return in.XID, true
	case RetryNow:
		return in.XID, true
	case Abandon:
		return in.XID, true
	case Waiting:
		return in.XID, true
	case EndWait:
		return in.XID, false
	case Break:
		return in.XID, false
	case Cancel:
		return in.XID, false
	case Settled:
		return in.XID, false
	case Answered:
		return in.XID, false
	case Called:
		return in.XID, false
	default:
		return xid.ID{}, false
	}
}

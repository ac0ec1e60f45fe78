// Package tm starts global transactions: it begins one, runs a function inside
// it, and asks the coordinator (TC) to commit or to roll back.
//
//	caller         Do                 TC            services called by fn
//	  |---- fn ---->|---- Begin ------>|                     |
//	  |             |<----- XID -------|                     |
//	  |             |-- fn(ctx with XID) -- calls with XID ->|  branches register
//	  |             |<----- nil, error or panic -------------|  and vote
//	  |             |---- Commit ----->|                     |
//	  |             |  or Rollback     |---- phase two ----->|
//	  |<-- error ---|<---- decision ---|                     |
//
// What Do returns tells the outcome, and never guesses:
//
//	nil                   committed
//	ErrRolledBack         rolled back, with the reason and the cause
//	ErrTimedOut           the same, because the deadline passed
//	ErrDeadlock           the same, because transactions waited for each other
//	ErrRollbackPending    fn failed and the coordinator was not reached; the
//	                      deadline rolls back
//	ErrOutcomeUnknown     the answer to Commit was lost; ask later with the XID
//	ErrNotSettled         decided, but phase two was not awaited to its end:
//	                      rolled back where it Is ErrRolledBack, too, else committed
//	ErrCommitted          fn failed, but an operator had committed
//
// ErrLockConflict is found beside ErrRolledBack where fn failed because another
// transaction held a row; the error names it.
//
// Sagas, messages and workflows are handed to the coordinator as a plan, which needs
// nobody to run: Submit, and Wait for the decision. Packages saga, message, workflow and
// tcc are made of that.
package tm

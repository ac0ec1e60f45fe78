// Package message delivers to other services what must arrive if, and only if,
// something else happened: a local transaction, or a global one.
//
//	Send        ---------------- Submit --------------> TC ---- deliver ----> services
//	Enlist      tm.Manager.Do, committed -------------> TC ---- deliver ---->   each until
//	                                                                            it succeeds
//	Prepare     ---- Submit, not to be delivered yet -> TC
//	  your own local transaction commits, or does not
//	Prepared.Send  ----------------- yes -------------> TC ---- deliver ---->
//	Prepared.Drop  ----------------- no --------------> TC      nothing
//	(the process died)                                  TC ---- CheckBack: did it commit?
//	                                                             done: deliver, failed: drop
//
// A message may have several receivers; each gets it for itself, in no order unless
// After gives one. A receiver is called at least once; package fence makes one effect of
// it, with the identity that comes along with the call, see target.Identity. Nothing is
// stored in the sender's database. Package message/broker makes a receiver of a subject
// in a message broker.
//
// The check-back decides what a dead sender can't say. It has to answer for the local
// transaction for good: done only where it is committed, failed only where it can never
// commit any more, not yet while it may. Not to find a row that the transaction writes
// is no proof, since it may be under way: write a row with the same key, which either
// waits for it or shuts it out.
package message

// Package core is the commit protocol as a state machine without clock,
// goroutine, randomness or I/O. The same machine runs in production, in
// simulation and over every store.
//
//	           now, Input                       Output
//	requests ─┐            ┌────────────────┐  ┌─ Records   append these, in order,
//	answers  ─┼──────────► │  Machine.Step  │ ─┤  Finished  with these, in one batch
//	ticks    ─┘            │                │  ├─ Messages  then release these, each when
//	                       │ state = Fold   │  │            the log is durable up to Need
//	archive ── Load ─────► │   of Records   │  └─ Wake      and send a Tick by then
//	                       └────────────────┘
//
// # Contract
//
// The caller owns the log. After each Step, or after several Steps with their
// outputs joined in order, it
//
//  1. appends Records and archives Finished in one atomic batch;
//  2. makes the log durable if some message has a Need above what is durable;
//  3. releases the messages in order, none before the log is durable up to its
//     Need. LSN counts records; what LSN returns after a Step is the position
//     of the newest record of that Step;
//  4. evicts what is finished, or keeps it for a while;
//  5. sends a Tick at Wake at the latest;
//  6. may keep account of who waits for whom by Parked, over all its machines.
//     It then sends Waiting to the machine of each waiter, Break to that of
//     the victim of a cycle, and, after WaiterDone, EndWait to the holders.
//  7. may let several machines share Config.MaxHeld. It then tells each by
//     SetElsewhere what the others hold, before an input that has a Weight.
//
// Nothing that reveals state may leave before that state is durable. This is
// the whole reason why no crash can make the coordinator tell two outcomes. A
// failed append is the end of the machine: its state is ahead of the log.
//
// # Phases
//
//	         Commit, votes missing          every vote in
//	Active ───────────────────► Collecting ─────────────► Settling(commit)
//	  │  │ Commit, every vote in ────────────────────────►    │
//	  │  │                          │                         │ every resource done
//	  └──┴── vote no, deadline, Rollback ──► Settling(rollback) ──► Finished
//
// The first durable decision wins; everything later is answered with it. A
// transaction that the machine does not know was never begun here, lost its
// begin before it had a branch, or is past the horizon. It is never "rolled
// back": nobody may undo anything because of what is not known.
//
// Phase two is driven per (XID, resource), for as long as it takes, with a
// bounded number of commands in flight per resource.
//
// # Plans
//
// A branch may have a Plan instead of a resource manager that settles it: actions
// that the machine has called, by Call. That is what makes the other modes; there
// is no other machine.
//
//	Collecting   Forward of each branch whose After have all voted yes;
//	             its answer is the branch's vote
//	Settling     first what resource managers settle, then
//	  (commit)   Commit, each after those of its After, or before them
//	  (rollback) Rollback of what may have happened, each after those that came
//	             after it, and after a Forward that is still under way
//
// Before the first Forward is called there is a durable record that commit was
// asked for, by Submit or Commit: from there on nobody has to ask again, and a
// restart goes on. What calls answered is recorded and not forced: a call whose
// answer is lost is made again.
package core

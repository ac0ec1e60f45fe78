// Package sim plays the whole of Handfast in one process, under one scheduler with
// virtual time, and checks its promises at every step. One seed is one run, bit for bit.
//
//	                    one queue of events, one at a time
//	                                  │
//	  clients            network      │        coordinators            databases
//	┌──────────┐   lost, doubled,     │   ┌────────────────────┐
//	│ tm, tcc, │   late, cut    ◄─────┴──►│ core.Machine  real │    ┌────────────┐
//	│ saga,    │──────────────────────────│ waits.Graph   real │    │ rows,locks │
//	│ workflow │         services         │ store codec   real │    │ fence,undo │
//	└──────────┘      ┌────────────┐      ├────────────────────┤    │ gate       │
//	     └───────────►│ rm.Tx,     │──────│ loop, log    model │    │ action     │
//	      calls       │ agent,     │      └────────────────────┘    │ prepared   │
//	                  │ janitor,   │───────────────────────────────►│ model      │
//	                  │ handlers   │   connections that break       └────────────┘
//	                  └────────────┘                                       │
//	┌─────────────────────────────────────────────────────────────────────┴────────┐
//	│ oracle: sees every record, message and local commit; does nothing             │
//	└───────────────────────────────────────────────────────────────────────────────┘
//
// # What is real
//
//	tc/core      Machine, Fold, Restore: the protocol itself, several shards each
//	tc/waits     Graph: who waits for whom, and who gives way
//	tc/store     AppendRecord, DecodeRecord, AppendFinished, DecodeFinished: what the
//	             modelled log holds is encoded, and read back after a crash
//	xid          XIDs and branch ids, their random part drawn from the seed
//
// # What is a model, and of what
//
// What is tied to goroutines, sockets or SQL is written again, step by step, and named
// after what it stands for. A fault in the original that is not in the copy is not found
// here; these parts have tests of their own, against a real Postgres and real disks.
//
//	coordinator.go  shard.step, take, lookUp,   tc/engine: shard, flusher, clock, ids,
//	                collect, commit, letGo,     waitGraph, expire. A message leaves when
//	                flush, flushed, park        the log is durable up to its Need
//	disk.go         disk                        tc/store/pebblestore: a log of atomic
//	                                            batches whose unforced tail is lost or cut
//	routes.go       routes, session             tc/api: hub
//	rpc.go          ask, begin, askOnce         client: requests are sent again until
//	                                            they are answered
//	client.go       begin, commit, rollback,    tm.Manager; tcc.Call; saga.Run; rm.Publish
//	                try, saga, publish, ...
//	workflow.go     runWorkflow                 workflow: run, W.step
//	service.go      branch                      rm.branch: register, wait, vote
//	tx.go           tx, waiter                  rm: Tx, attempt.back, sealAndCommit,
//	                                            prepare, commitUnknown, waiter.wait, watched
//	agent.go        settleCommand, askCommand,  rm: agent, settler, janitor, settleDecided
//	                settleDecided, janitor
//	handler.go      callCommand, fenced         client.dispatchCall, handlers, fence.Run
//	database.go     local, lock, commit,        Postgres: row locks, unique index, atomic
//	                prepare, crash              commits, PREPARE, commits not forced
//	guard.go        update, insertFence         undolog/sql: 2_branch, 3_gate (READ COMMITTED)
//	family.go       references, guardFamily     the checks of a foreign key, and undolog's guard of it
//	relay.go        committed                   undolog: the view of committed rows
//	settle.go       settle, rollback,           undolog: Settle, commitPrepared,
//	                commitBatch, ask, pending   rollbackPrepared, Ask; undolog/sql: 4_settle, 6_xa
//	front.go        find, open, start, ...      tc/dtm: service, and what it asks of the core
//	webcall.go      web, barrier                tc/caller in DTM's dialect; BranchBarrier of
//	                                            DTM's client
//	dtmclient.go    dtmSaga, dtmTCC, ...        DTM's client: Saga, Tcc, Msg
//	dtmworkflow.go  dtmWorkflowRun              DTM's client: workflow.Execute
//	failover.go     replicate, failOver         a replica of Postgres that lags behind
//	action.go       enter, leave                undolog/sql: 7_action
//
// A row is a number and a unique tag; an undo row is what both were. Rows of two more tables,
// parents and children, come and go, and children move. The lock that a foreign key takes on
// a parent is one for all, where Postgres shares it. Above READ COMMITTED a local transaction
// has one snapshot: a row, or a key of somebody else's, that is newer is 40001. Not modelled
// are what a plain SELECT reads, actions and deferral of foreign keys, types, and the search
// of Postgres for deadlocks, in place of which lock timeouts end them: package undolog tries
// those on Postgres.
//
// # Faults
//
// Jobs and faults are drawn before the run, each with a stream of its own, so that each
// can be left out without changing the others; that is how a failure is shortened. So do
// messages and pauses: they are drawn from the stream of the work that they belong to. See
// faults.go for the kinds. Besides, each run has its weather: messages and calls
// that are lost, doubled and late, connections to databases that break, also at COMMIT,
// and user code that fails, panics, hangs, refuses, or is late.
//
// After some seconds of that, faults end and time goes on until nothing is left to do.
//
// # Accidents
//
// Options.Adopt and Options.FailOver play what is beyond the promises: an older copy of a
// store that an operator adopts, and a database that lacks its newest commits. beyond.go
// says what has to hold even then.
//
// # What is checked
//
// The oracle keeps books of its own: what was told to whom, and what each row should
// hold by the effects of committed local transactions and the decisions. A break of a
// promise (world.fail) is something that somebody outside could see; a break of a rule
// (world.rule) is one of those that the promises rest on, and shows sooner.
//
//   - No two outcomes are told or recorded; none is told, and nothing is acknowledged,
//     before it is durable; nothing that was told is forgotten in a crash.
//   - A commit stands on a yes of every branch that is a fact in its database.
//   - Nothing is settled but by a durable decision.
//   - Nobody changes a row or a unique value of an unsettled transaction. A rollback
//     restores exactly, and leaves no child without its parent. No row is negative.
//   - What relays read of rows is committed.
//   - The effect of an action happens once, its compensation only after it, and it never
//     after its compensation. Steps, compensations and deliveries come in order.
//   - Each transaction is a register that is written once, and what clients hear of it is
//     linearizable.
//   - A key stands for one transaction for as long as that is kept, and what was
//     acknowledged under it is found by it.
//   - Cycles of waits are broken. Who waits for a holder and holds up its settling by row
//     locks gives way, and an attempt to settle waits for each lock for a moment only.
//   - A registration that is sent again is answered as at first. Nothing is rolled back for a
//     vote where every branch that anybody has asked for has succeeded.
//   - In the end: nothing undecided, no intent, key, live fence, prepared transaction, lock
//     or call left over; every client answered; each transaction whole or without effect;
//     every outcome can be asked for again.
//
// # Planted faults
//
// Options.Planted switches one rule off, in the models and at the boundary of the real
// machines: what goes in, what comes out, what is written. Faults inside of the real code
// are planted in its source, by building the test with another text in place of a file
// (go build -overlay). Production code has no switch for either.
package sim

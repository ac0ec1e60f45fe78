// Package engine runs the machines of package core over a store: it is the
// shell that gives them clock, goroutines, log and identities.
//
//	Submit ──hash(xid)──► queue ──► shard: Step, Step, Step ... one batch
//	                                  │
//	                                  ├── Apply(batch), not forced ──► store
//	                                  ├── messages that need nothing ──► released
//	                                  └── messages that need the log ──► pending
//	                                                                       │
//	   all shards ───────► flusher: one forced write for everybody ────────┴──► released
//
// # Durability
//
// A shard appends each batch without forcing it, and goes on. The flusher
// forces the store's log while some message waits for it: one forced write
// serves all shards and everything appended before it began. A message leaves
// only when the log is durable up to its Need; the messages of a shard that
// need the log leave in the order in which the machine sent them.
//
// # Waiting
//
// One graph over all shards knows which transaction waits for which; see
// package waits. A shard tells it of the waits that begin and end, and it posts
// what follows to other shards: above all the rollback of the youngest in a
// cycle, which is a decision like any other.
//
// # Failure
//
// A failed write, or a panic, is the end of the engine: the state of the
// machines is ahead of the log. Dead is closed, nothing more is released, and
// Config.Fatal is told, so that the process can exit and start afresh from
// what is durable.
//
// # Bounds
//
// Each shard's queue is bounded, in requests and in the bytes that they bring.
// What open transactions hold is bounded over all shards; see core.Config.MaxHeld.
// Submit refuses with ErrFull at once;
// SubmitWait waits for room. Events that come from the engine's own process
// (Post) are never refused: whoever makes them calls Room first.
package engine

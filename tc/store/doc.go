// Package store says what the coordinator needs of its durable log, and how
// what is written there is encoded. Package pebblestore implements it, package
// storetest is the suite that every implementation has to pass.
//
//	          core.Record, core.Transaction
//	shards ──────────── Apply(Batch, sync) ───────────► log ──► position
//	                                                     │
//	start  ◄─────────── Recover: unfinished, folded ─────┤
//	lookup ◄─────────── Finished, ListFinished ──────────┤
//	time   ──────────── Expire: horizon first, then drop ┘
//
// A record is encoded with protobuf (proto/handfast/store/v1), so that a later
// version can read what an earlier one wrote. Decoding is strict: every state has
// one encoding, and what AppendRecord or AppendFinished would not have written is
// ErrCorrupt, never a guess. They in turn refuse what could not be read again.
package store

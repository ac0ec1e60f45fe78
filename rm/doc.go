// Package rm lets a service take part in global transactions with what it does
// in Postgres. A [Pool] is used like a pgxpool.Pool:
//
//	pool, err := rm.Open(ctx, coordinator, dsn)
//	...
//	_, err = pool.Exec(ctx, "UPDATE stock SET n = n - $1 WHERE id = $2", 1, id)
//
// Package rmsql, below this one, makes a *sql.DB of it.
//
// Where the context carries no XID the pool is the plain pool. Where it carries
// one, each local transaction becomes a branch of that global transaction:
//
//	          Tx                              branch (one goroutine)
//	first  BEGIN, arm, statement ---flush-->      RegisterBranch ---> TC
//	next   statement             ---flush-->            |
//	       ...                                          v
//	Commit wait for the acknowledgement <---------- registered
//	       seal, COMMIT          ---flush-->
//	       committed ---------------------------> Vote yes ---------> TC
//
//	TC === Settle, AskVotes ==> agent: queue --> settlers (own connections)
//	janitor: intents left over --> Get from the TC --> the same queue
//
// A local transaction of n statements costs no more round trips than with plain
// pgx: arming travels with the first statement and sealing with COMMIT. After
// the local commit the rows it changed are write intents, until the coordinator
// has decided; the agent then settles them on connections of its own, so that a
// pool without a free connection can't keep phase two waiting.
//
// # Conflicts
//
// A statement that meets a row of another undecided transaction fails with
// *[LockConflictError]. A single statement outside of an explicit transaction
// waits for the holder and runs again, until the lock timeout; a statement in an
// explicit transaction returns the error, and the transaction has to be rolled
// back and run anew.
//
// # Single statements
//
// Under an XID a statement on the pool runs in a local transaction of its own.
// For Query it is committed when the rows are closed or read to their end, and
// Rows.Err tells whether it was; for QueryRow at Scan; for SendBatch when the
// results are closed, so the error of Close matters. A statement that only
// reads makes no branch: it is tried in a read-only transaction first.
//
// # What is refused
//
// Under an XID transactions can't be controlled by SQL text (BEGIN, COMMIT,
// PREPARE TRANSACTION and their like), and large objects can't be used, because
// changes to them can't be captured.
package rm

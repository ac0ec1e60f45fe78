// Package rm lets a service take part in global transactions with what it does
// in Postgres. A [Pool] is used like a pgxpool.Pool:
//
//	pool, err := rm.Open(ctx, coordinator, dsn)
//	...
//	_, err = pool.Exec(ctx, "UPDATE stock SET n = n - $1 WHERE id = $2", 1, id)
//
// Package rmsql, below this one, makes a *sql.DB of it.
//
// Where the context carries no XID the pool is the plain pool, except that its
// transactions can Publish. Where it carries
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
//	TC === Examine ===========> agent: rows for an operator (a connection for it)
//	janitor: intents left over --> Get from the TC --> the same queue
//
// A local transaction of n statements costs no more round trips than with plain
// pgx: arming travels with the first statement and sealing with COMMIT. After
// the local commit the rows it changed are write intents, until the coordinator
// has decided; the agent then settles them on connections of its own, so that a
// pool without a free connection can't keep phase two waiting.
//
// # XA
//
// That is AT mode. With WithMode(XA) for the pool, or BeginXA and ContextWithMode
// for one local transaction, phase one ends with PREPARE TRANSACTION instead:
//
//	first  BEGIN, begin XA, statement ---flush-->     RegisterBranch ---> TC
//	...                                                    |
//	Commit did it write?              ---flush-->          v
//	       wait for the acknowledgement <------------ registered
//	       fence, PREPARE TRANSACTION ---flush-->
//	       prepared -------------------------------> Vote yes ---------> TC
//
//	TC === Settle ==> COMMIT PREPARED or ROLLBACK PREPARED, before AT branches
//	janitor: prepared transactions left over --> Get from the TC --> the same
//
// Postgres keeps the row locks, and everybody from seeing the changes, until the
// decision. Tables need no protection, and DDL and TRUNCATE are allowed; what
// Postgres can't prepare fails at Commit with its error, and the branch
// withdraws. Use it where rows must not be seen undecided, or where AT refuses;
// AT is quicker, and blocks nobody who only reads or locks.
//
// Both modes mix in one global transaction. Rows that an AT branch of it has
// changed an XA branch can't change ([ErrMixedModes]). Waiting for a row that an
// XA branch has locked is waiting inside Postgres, up to the lock timeout, with
// SQLSTATE 55P03 at its end.
//
// The server needs max_prepared_transactions ([ErrXADisabled], [ErrXASlots]), and
// the services of a database have to use one role, which alone can finish what it
// has prepared.
//
// # Conflicts
//
// A statement that meets a row of another undecided transaction waits, through
// the coordinator, until that one is settled in this database, and runs again;
// after the lock timeout it fails with *[LockConflictError]. What it goes back to
// before it waits:
//
//	a statement of its own     its whole local transaction; the connection is
//	                           back in the pool while it waits
//	the first of an explicit   before BEGIN: the waiter holds no lock
//	transaction
//	a later one                a savepoint, which travels in its flush; what the
//	                           transaction did before stays done and locked
//
// An explicit transaction keeps its connection while it waits. A pool that is
// full of those that wait has none for the one that they wait for, if that is in
// the same process: then only the lock timeout helps. Let the pool be larger.
//
// Some statements of an explicit transaction are not tried again and fail with
// the conflict at once: at REPEATABLE READ and SERIALIZABLE, where only a new
// transaction can see what the holder left (SQLSTATE 40001); CopyFrom; batches
// with callbacks, or of which a result was given out; statements with pgx
// options such as QueryExecModeExec; all of a transaction whose Conn was
// called; all but the first with [WithSavepoints](false). As in Postgres, a
// failed statement leaves the transaction failed.
//
// # Deadlocks
//
// The coordinator knows who waits for whom over all services and databases. A
// cycle is broken at once by rolling back its youngest transaction that waits:
// its statement fails with an error that Is [ErrDeadlock] and names the cycle.
//
// While an explicit transaction waits, its row locks may hold up the holder
// inside Postgres, or anybody that the holder waits for: a statement, or the
// settling of a rollback. The waiter looks for that, first after 0.1 s, and gives
// way with the same error; its local transaction is rolled back then. A cycle
// that runs through row locks in two places is seen by nobody; the lock timeout
// ends it.
//
// Waiters are let go in the order in which they began to wait, and each has a
// moment to take the row before the next goes for it.
//
// # Single statements
//
// Under an XID a statement on the pool runs in a local transaction of its own.
// For Query it is committed when the rows are closed or read to their end, and
// Rows.Err tells whether it was; for QueryRow at Scan; for SendBatch when the
// results are closed, so the error of Close matters. A statement that only
// reads makes no branch: it is tried in a read-only transaction first.
//
// # Messages
//
// [Publish] has messages delivered exactly if a local transaction commits, without a
// broker or a table of outgoing messages:
//
//	plain      BEGIN ... Publish: fence, Submit ---> TC    durable before COMMIT
//	           COMMIT, or not
//	           what does the fence say? ---------> Vote --> TC ---> deliveries
//	global     Publish: RegisterBranch of each ---> TC ... committed ---> deliveries
//
// The vote is looked up in the database after the end of the local transaction, off the
// caller's path; where this process has died, the coordinator asks another service of
// the database. A savepoint that is rolled back takes its messages with it. In a global
// transaction the messages belong to that one and not to the local transaction. An
// operator who rolls back a transaction with messages keeps them from going out.
//
//	tx, err := pool.Begin(ctx)
//	...
//	err = rm.Publish(ctx, tx, target.HTTP("http://mail/welcome", target.Payload(user)))
//	...
//	err = tx.Commit(ctx)
//
// [PublishMessage] does the same with a message.Message, which has a name, an order of its
// receivers and retry policies, and gives the XID to follow it with.
//
// # What is refused
//
// Under an XID transactions can't be controlled by SQL text (BEGIN, COMMIT,
// PREPARE TRANSACTION and their like), and large objects can't be used, because
// changes to them can't be captured.
package rm

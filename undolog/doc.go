// Package undolog is the Postgres side of AT mode: undo rows beside the data,
// which are write intents at the same time.
//
//	BEGIN
//	arm(xid, branch)        local settings, nothing else
//	UPDATE ...  ──trigger──► fence row   (first write; refused where decided)
//	                         gate rows   (who owns which key; unique index)
//	                         undo rows   (key, changed columns before and after)
//	seal()                  still armed? did it write?
//	COMMIT ════════════════► the fence row is the branch's yes
//	   ·
//	   · decision, told by the coordinator or asked for
//	   ▼
//	Settle  commit:   fences C, undo and gate rows deleted, many XIDs at once
//	        rollback: tombstones; then for each table
//	                    plan     what each row was, from all of its undo rows
//	                    diff     is each row what the transaction left?
//	                    restore  set by set, in whatever order fits
//	                    verify   foreign keys and deferrable uniques
//	                  and fences R
//
// Everything of one XID in one database is settled in one local transaction: two
// branches of an XID may have changed the same row. What a row was is computed
// from the images of all statements that touched it, column by column, and not by
// going backwards: neither cascades, nor users' triggers, nor two branches need
// an order then.
//
// The functions are generated for each protected table. Capture is a trigger per
// statement, which reads all rows of the statement as transition tables; tables
// that are partitioned or inherited get one per row, since Postgres has no
// transition tables there. It sees what no parser of SQL sees: CTEs, COPY, MERGE,
// cascades, users' triggers. Values travel as text, as their type's own output
// function writes it, with every setting that matters pinned.
//
// # The guard
//
// Plain sessions run the trigger too: they are refused where a key is owned by an
// undecided transaction, and leave nothing behind. Keys, each a hash with a seed
// that says what it is:
//
//	row     the primary key: nobody else changes the row or takes its key
//	unique  a value that the row had or got: nobody else takes it
//	new     a parent that may vanish: nobody else refers to it
//	need    a parent that a vanished child may need: nobody removes it
//
// At READ COMMITTED the error has SQLSTATE HF001; above, where a retry within
// the transaction would never see the settle, it is 40001.
//
// It is right because keys are owned through a unique index, which sees past
// every snapshot. At READ COMMITTED a plain session may look instead: it holds the
// row lock, or its own index entry waited, so whoever captured the row before has
// committed, and every statement in the trigger has a new snapshot. Where nothing
// has waited, as with deferred constraints, it inserts its keys and takes them back.
// The triggers of foreign keys sort behind those of Postgres for the same reason.
//
// # XA
//
// A branch of mode XA has no undo rows: it is prepared, with its fence row inside
// of it, and to the guard a plain session.
//
//	BEGIN
//	xa_begin(xid, branch)   local settings, and the lock that says: open
//	...
//	xa_fence()              state C, in the flush of PREPARE
//	PREPARE TRANSACTION ═══► what is prepared is the branch's yes
//	   ·
//	   ▼
//	Settle  commit:   COMMIT PREPARED, then the fence has to be visible
//	        rollback: ROLLBACK PREPARED, tombstone, until nothing is prepared
//	        both before the AT branches of the XID
//
// # Reading
//
// WithCommittedView makes a view of the rows as if no undecided transaction
// existed. handfast.settled(row) in a WHERE refuses undecided rows.
//
// # Contradictions
//
// A rollback compares each row with what the transaction left there. One that
// differs was changed behind the back of the triggers; it is never overwritten,
// and nothing of the transaction is undone before a person has chosen what is to
// become of it. Diff shows such rows, Resolve records a choice, and the next
// Settle carries it out, if the row is still what the person saw.
//
// # SQLSTATEs
//
//	HF001  a row, key or unique value is held by an undecided transaction
//	HF002  the global transaction is decided, or too old: nothing may join
//	HF003  a row can't be restored: it is not what the transaction left
//	HF004  refused in a global transaction: it could not be undone
//	HF005  arming was lost, forged or left over from another transaction
//	HF006  what is in the database contradicts the decision
//	HF007  a choice for a row is refused; see Resolve
//
// # Limits
//
// A table needs a primary key that is not deferrable. Refused are exclusion
// constraints, triggers and rules of users that are enabled ALWAYS or REPLICA,
// unlogged and temporary tables, and domains with constraints that are not
// validated; a row that breaks a CHECK constraint which is NOT VALID is refused when
// it is to be changed. Event triggers refuse DDL while rows are undecided, and take
// a table that was altered off until it is protected again; they need a superuser to
// install the schema. Rolling back needs the right to set session_replication_role;
// Doctor says where it is missing. Install puts a trigger on every table of the
// database, which refuses writes without capture in a global transaction; where a new
// table has none, seal looks at the locks of the transaction, which costs more.
//
// TRUNCATE, DROP and DETACH of what is protected need READ COMMITTED: above it
// intents may not be seen. DETACH ... CONCURRENTLY of a protected table is refused: it
// would end half done where there are intents. A unique index that is built
// CONCURRENTLY is guarded only once it is valid and the table protected again.
//
// Large objects have no triggers; seal refuses what changed one.
//
// The expressions of a table's indexes, constraints, domains and generated columns
// are evaluated with the rights of whoever protected it, and with the search_path of
// our functions. So Protect refuses those that rest on another path, and functions
// of roles which have not these rights.
//
// An XID is all that it takes to join its transaction. A conflict names it only to
// roles that may settle.
package undolog

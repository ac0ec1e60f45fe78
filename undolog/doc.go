// Package undolog is the Postgres side of AT mode: undo rows beside the data,
// which are write intents at the same time.
//
//	BEGIN
//	arm(xid, branch)        local settings, nothing else
//	UPDATE ...  ──trigger──► fence row   (first write; refused where decided)
//	                         gate rows   (who owns which key; unique index)
//	                         undo row    (key, changed columns before and after)
//	seal()                  still armed? did it write?
//	COMMIT ════════════════► the fence row is the branch's yes
//	   ·
//	   · decision, told by the coordinator or asked for
//	   ▼
//	Settle  commit:   fences C, undo and gate rows deleted, many XIDs at once
//	        rollback: tombstones, then undo rows backwards, compared with what
//	                  they left and written in one statement; fences R
//
// Everything of one XID in one database is settled in one local transaction, in
// descending order of one database-wide sequence: two branches of an XID may
// have changed the same row.
//
// A trigger that is generated for each protected table captures and guards. It
// sees what no parser of SQL sees. Plain sessions run it too: they are refused
// where a key is owned by an undecided transaction, and leave nothing behind.
// At READ COMMITTED the error has SQLSTATE HF001; above, where a retry within
// the transaction would never see the settle, it is 40001.
//
// The guard is right because keys are owned through a unique index. At READ
// COMMITTED a plain session may look instead: it holds the row lock, or its own
// index entry waited, so whoever captured the row before has committed, and
// every statement in the trigger has a new snapshot.
//
// # SQLSTATEs
//
//	HF001  a row, key or unique value is held by an undecided transaction
//	HF002  the global transaction is decided, or too old: nothing may join
//	HF003  a row can't be restored: it is not what the transaction left
//	HF004  refused in a global transaction: it could not be undone
//	HF005  arming was lost, forged or left over from another transaction
//	HF006  what is in the database contradicts the decision
//
// # Limits
//
// A table needs a primary key that is not deferrable. Refused are exclusion
// constraints, triggers and rules of users that are enabled ALWAYS or REPLICA, and
// domains with constraints that are not validated; a row that breaks a CHECK
// constraint which is NOT VALID is refused when it is to be changed. Rolling back
// needs the right to set session_replication_role; Doctor says where it is missing.
// Install puts a trigger on every table of the database, which refuses writes
// without capture in a global transaction, and needs a superuser to do so for new
// tables; else seal looks at the locks of the transaction, which costs more.
//
// TRUNCATE, DROP and DETACH of what is protected need READ COMMITTED: above it
// intents may not be seen. DETACH ... CONCURRENTLY must not be used on a protected
// table: it ends half done where there are intents. A unique index that is built
// CONCURRENTLY is guarded only once it is valid and the table protected again.
//
// Not seen are large objects. In a global transaction lastval() tells a value of
// our own sequence; use RETURNING.
//
// Whoever owns a protected table is trusted: the expressions of its indexes,
// constraints, domains and generated columns are evaluated with the rights of whoever
// protected it. So is whoever may write to it: a conflict names the XID that
// holds the row, and an XID is all that it takes to join.
package undolog

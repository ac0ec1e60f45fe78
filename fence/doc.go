// Package fence makes the effect of an action happen once, however often, late, or in
// whatever order the action is called. It is for participants of TCC, sagas and
// messages that keep their data in PostgreSQL:
//
//	func charge(w http.ResponseWriter, r *http.Request) {
//		call, err := fence.FromHTTP(r)
//		...
//		out, err := fence.Run(r.Context(), pool, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
//			_, err := tx.Exec(ctx, "UPDATE account SET balance = balance - $1 WHERE id = $2", amount, id)
//			return nil, err
//		})
//		...
//
// A coordinator calls an action until it has an answer, so an action is called again
// when only its answer was lost. Messages overtake each other, so a compensation may
// come before the action that it compensates, or without it. What was done for a
// branch is therefore one row, written in the local transaction that does it:
//
//	             forward: run              commit: run
//	  (no row) ────────────────► forward ───────────────► committed
//	      │                         │
//	      │ rollback: nothing       │ rollback: run
//	      │ to undo, do not run     │
//	      ▼                         ▼
//	  tombstone                rolled back
//
//	                 no row      forward    committed      rolled back    tombstone
//	forward          runs        repeated   repeated       ErrLate        ErrLate
//	commit           ErrNoForw.  runs       repeated       ErrContradicted
//	rollback         empty       runs       ErrContrad.    repeated       empty
//
// Repeated answers with the result of the run that counts. An action that fails, by its
// own error or a crash, leaves neither effect nor row, and may be called again.
//
// # Calls at the same time
//
// All actions of a branch meet in its row. The second waits until the transaction of the
// first has ended, at most for the session's lock_timeout (LockTimeout where it has
// none; then ErrBusy), and sees what became of it. Above READ COMMITTED it fails with
// SQLSTATE 40001 instead where its snapshot is older than that; so it does
// where other statements of its transaction conflict. The coordinator calls again.
//
// # What it does not do
//
// Only what is written in the local transaction happens once. A mail sent by the
// action, or a call to somebody else, is sent again when the transaction fails after
// it; pass [Call.Key] on, so that the other side can tell.
//
// Forward, commit and rollback of a branch have to reach the same database: another one
// knows nothing of the branch.
//
// A local transaction is either a branch in AT mode, which is undone by itself, or
// fenced, and then compensated. Both is refused (ErrArmed), at the call or at COMMIT. An
// action that needs AT elsewhere begins a global transaction of its own; its effects
// are not fenced then.
//
// # How long it remembers
//
// Rows are kept for 30 days after the XID began and after the last call that changed
// them, and are then dropped by [undolog.GC], which attached services (package rm) and
// "handfast pg gc" run. The database notes how far that has come. A call that old which finds
// no row is refused with ErrForgotten: it may be the first, or have happened. To keep
// them longer, UPDATE handfast.action_memory SET keep = '90 days'.
//
// # Other languages
//
// The schema's functions are the protocol; in one local transaction:
//
//	SELECT verdict, result FROM handfast.action_enter(xid, branch, 'forward', 5000);
//	-- only where verdict is 'run': the effect, and then, where there is a result,
//	SELECT handfast.action_leave(xid, branch, 'forward', result);
//
// The schema is installed by "handfast pg install". Applications need no rights on it.
package fence

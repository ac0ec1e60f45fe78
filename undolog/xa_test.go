package undolog_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const xaSchema = `
CREATE TABLE account (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO account SELECT i, 100 FROM generate_series(1, 9) i;
CREATE TABLE entry (id int PRIMARY KEY, account int NOT NULL REFERENCES account);
CREATE TABLE bare (n int);`

func newXADatabase(t *testing.T) *database {
	t.Helper()
	d := newDatabase(t, xaSchema, "account", "entry")
	// A database with prepared transactions can't be dropped.
	t.Cleanup(func() { d.rollbackAll() })
	return d
}

func (d *database) rollbackAll() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, d.dsn)
	if err != nil {
		d.t.Error(err)
		return
	}
	defer conn.Close(ctx) //nolint:errcheck // the work is done
	left, err := undolog.PreparedBranches(ctx, conn, 0)
	if err != nil {
		d.t.Error(err)
	}
	for _, p := range left {
		d.exec(conn, "ROLLBACK PREPARED '"+p.GID+"'")
	}
}

// beginXA begins an XA branch.
func (d *database) beginXA(id xid.ID, statements ...string) *local {
	d.t.Helper()
	l := &local{d: d, conn: d.connect(), id: id, branch: newBranch()}
	d.exec(l.conn, "BEGIN")
	sql, args := undolog.BeginXA(id, l.branch, undolog.ArmOptions{LockTimeout: 3 * time.Second})
	l.exec(sql, args...)
	for _, s := range statements {
		l.exec(s)
	}
	return l
}

func (l *local) tryPrepare() error {
	_, err := l.conn.Exec(context.Background(), undolog.PrepareXA(l.id, l.branch, witness))
	return err
}

// fence is the first half of what prepares a branch.
func (l *local) fence() string {
	fence, prepare, _ := strings.Cut(undolog.PrepareXA(l.id, l.branch, witness), ";")
	l.exec(fence)
	return prepare
}

// prepared is an XA branch at the end of phase one.
func (d *database) prepared(id xid.ID, statements ...string) *local {
	d.t.Helper()
	l := d.beginXA(id, statements...)
	if err := l.tryPrepare(); err != nil {
		d.t.Fatal(err)
	}
	return l
}

func (l *local) xaVote(yes bool) undolog.BranchVote {
	return undolog.BranchVote{ID: l.branch, Yes: yes, XA: true}
}

func (l *local) gid() string { return undolog.GID(l.id, l.branch) }

// settleXA waits for whoever is in its way.
func settleXA(conn *pgx.Conn, id xid.ID, commit bool, branches ...undolog.BranchVote) error {
	return settleXAFor(time.Minute, conn, id, commit, branches...)
}

func settleXAFor(d time.Duration, conn *pgx.Conn, id xid.ID, commit bool, branches ...undolog.BranchVote) error {
	s := undolog.Settlement{XID: id, Commit: commit, Branches: branches}
	return undolog.Settle(context.Background(), conn, []undolog.Settlement{s}, undolog.SettleOptions{LockTimeout: d})[0].Err
}

// wantBlocked settles what somebody holds up.
func (d *database) wantBlocked(id xid.ID, commit bool, branches ...undolog.BranchVote) {
	d.t.Helper()
	err := settleXAFor(300*time.Millisecond, d.own, id, commit, branches...)
	if _, ok := errors.AsType[*undolog.BlockedError](err); !ok {
		d.t.Fatalf("got %v, want it blocked", err)
	}
}

func (d *database) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *database) number(sql string) (n int) {
	d.t.Helper()
	d.check(d.own.QueryRow(context.Background(), sql).Scan(&n))
	return n
}

func (d *database) wantAlarm(err error, part string) {
	d.t.Helper()
	a, ok := errors.AsType[*undolog.AlarmError](err)
	if !ok || !strings.Contains(a.Reason, part) {
		d.t.Fatalf("got error %v, want an alarm about %q", err, part)
	}
}

func (d *database) wantState(err error, state string) {
	d.t.Helper()
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.Code != state {
		d.t.Fatalf("got error %v, want SQLSTATE %s", err, state)
	}
}

func TestXANamesFit(t *testing.T) {
	t.Parallel()
	if n := len(undolog.GID(newXID(), newBranch())); n >= 200 {
		t.Fatalf("a name has %d bytes", n)
	}
}

func TestXAIsSettledOnceByAnyNumberOfSettlers(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	for _, commit := range []bool{true, false} {
		before := d.number("SELECT sum(n)::int FROM account")
		for range 10 {
			id := newXID()
			a := d.prepared(id, "UPDATE account SET n = n + 1 WHERE id = 1", "INSERT INTO bare VALUES (1)")
			b := d.prepared(id, "UPDATE account SET n = n + 1 WHERE id = 2")
			var wg sync.WaitGroup
			for range 3 {
				conn := d.connect()
				wg.Go(func() {
					for range 2 {
						if err := settleXA(conn, id, commit, a.xaVote(true), b.xaVote(true)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			// The other way round it contradicts.
			d.wantAlarm(settleXA(d.own, id, !commit, a.xaVote(true), b.xaVote(true)), "")
		}
		want := before
		if commit {
			want += 20
		}
		if got := d.number("SELECT sum(n)::int FROM account"); got != want {
			t.Fatalf("commit %t: sum %d, want %d", commit, got, want)
		}
		if got := d.number("SELECT count(*)::int FROM bare"); got != 10 {
			t.Fatalf("commit %t: %d rows in the table without protection", commit, got)
		}
	}
	if n := d.number("SELECT count(*)::int FROM pg_prepared_xacts WHERE database = current_database()"); n != 0 {
		t.Fatalf("%d are prepared", n)
	}
	if n := d.number("SELECT count(*)::int FROM handfast.fence WHERE state = 'C' AND at = 'infinity'"); n != 0 {
		t.Fatalf("%d fences never grow old", n)
	}
}

// A PREPARE that comes after the rollback meets the tombstone.
func TestALateXAPrepareIsRefused(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	id := newXID()
	l := d.beginXA(id, "UPDATE account SET n = 0 WHERE id = 1")
	d.check(settleXA(d.own, id, false, l.xaVote(false)))
	d.wantState(l.tryPrepare(), undolog.SQLStateDecided)
	l.exec("ROLLBACK")
	// Also at the level that reads an old snapshot.
	id = newXID()
	l = &local{d: d, conn: d.connect(), id: id, branch: newBranch()}
	l.exec("BEGIN ISOLATION LEVEL SERIALIZABLE")
	sql, args := undolog.BeginXA(id, l.branch, undolog.ArmOptions{})
	l.exec(sql, args...)
	l.exec("UPDATE account SET n = 0 WHERE id = 1")
	d.check(settleXA(d.own, id, false, l.xaVote(false)))
	d.wantState(l.tryPrepare(), undolog.SQLStateDecided)
}

// The rollback comes between the fence and PREPARE, which then has its way first.
func TestXARollbackGetsWhatIsPreparedMeanwhile(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	id := newXID()
	l := d.beginXA(id, "UPDATE account SET n = 0 WHERE id = 1")
	prepare := l.fence()
	d.wantBlocked(id, false, l.xaVote(false))
	settler, settled := d.connect(), make(chan error, 1)
	go func() { settled <- settleXA(settler, id, false, l.xaVote(false)) }()
	d.awaitLockWait(settler)
	l.exec(prepare)
	d.check(<-settled)
	if n := d.number("SELECT count(*)::int FROM pg_prepared_xacts WHERE database = current_database()"); n != 0 {
		t.Fatal("it is still prepared")
	}
	if n := d.number("SELECT n FROM account WHERE id = 1"); n != 100 {
		t.Fatalf("n is %d", n)
	}
}

// An unknown one is never assumed done.
func TestXAThatIsGoneIsNoSuccess(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	id := newXID()
	at := d.work(id, "UPDATE account SET n = 1 WHERE id = 2")
	xa := d.prepared(id, "UPDATE account SET n = 0 WHERE id = 1")
	intents := d.litter()
	d.exec(d.own, "ROLLBACK PREPARED '"+xa.gid()+"'")
	d.wantAlarm(settleXA(d.own, id, true, at.vote(), xa.xaVote(true)), "its fence is gone")
	if d.litter() != intents {
		t.Fatal("the intents of its AT branch were given up")
	}
	id = newXID()
	xa = d.prepared(id, "UPDATE account SET n = 0 WHERE id = 1")
	d.exec(d.own, "COMMIT PREPARED '"+xa.gid()+"'")
	d.wantAlarm(settleXA(d.own, id, false, xa.xaVote(true)), "settled as committed")
	d.check(settleXA(d.own, id, true, xa.xaVote(true)))
	// Prepared, and known to have withdrawn: both can't be.
	id = newXID()
	xa = d.prepared(id, "UPDATE account SET n = 0 WHERE id = 3")
	d.wantAlarm(settleXA(d.own, id, true, xa.xaVote(false)), "was not to commit")
}

func TestXAVotesAreFacts(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	ask := func(l *local) undolog.Answer {
		t.Helper()
		a, err := undolog.AskPrepared(context.Background(), d.own, l.id, l.branch, 50*time.Millisecond)
		d.check(err)
		return a
	}
	open := d.beginXA(newXID(), "UPDATE account SET n = 0 WHERE id = 1")
	if a := ask(open); a != undolog.AnswerOpen {
		t.Fatalf("open: %d", a)
	}
	prepare := open.fence()
	if a := ask(open); a != undolog.AnswerOpen {
		t.Fatalf("fenced: %d", a)
	}
	open.exec(prepare)
	if a := ask(open); a != undolog.AnswerYes {
		t.Fatalf("prepared: %d", a)
	}
	d.check(settleXA(d.own, open.id, true, open.xaVote(true)))
	if a := ask(open); a != undolog.AnswerYes {
		t.Fatalf("committed: %d", a)
	}
	gone := d.beginXA(newXID(), "UPDATE account SET n = 0 WHERE id = 2")
	gone.exec("ROLLBACK")
	if a := ask(gone); a != undolog.AnswerNo {
		t.Fatalf("rolled back: %d", a)
	}
	// No is as final as yes.
	gone.exec("BEGIN")
	sql, args := undolog.BeginXA(gone.id, gone.branch, undolog.ArmOptions{})
	gone.exec(sql, args...)
	gone.exec("UPDATE account SET n = 0 WHERE id = 2")
	d.wantState(gone.tryPrepare(), undolog.SQLStateDecided)
}

// The prepared transaction has locked rows that the undo of the AT branch needs.
func TestXAGivesItsLocksBackBeforeATIsUndone(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	before := d.dump()
	id := newXID()
	at := d.work(id, "UPDATE account SET n = 1 WHERE id IN (1, 2)", "DELETE FROM entry")
	xa := d.prepared(id, "SELECT FROM account WHERE id = 1 FOR UPDATE", "INSERT INTO entry VALUES (1, 2)", "UPDATE account SET n = 5 WHERE id = 3")
	// Alone the AT branch can't be undone.
	d.wantBlocked(id, false, at.vote())
	d.check(settleXA(d.own, id, false, at.vote(), xa.xaVote(true)))
	if got := d.dump(); got != before {
		t.Fatalf("got\n%s\nwant\n%s", got, before)
	}
	if d.litter() != 0 {
		t.Fatal("intents are left")
	}
}

func TestXAIsAPlainSessionToTheGuard(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	id := newXID()
	at := d.work(id, "UPDATE account SET n = 1 WHERE id = 1")
	for _, x := range []xid.ID{id, newXID()} {
		l := d.beginXA(x)
		_, err := l.conn.Exec(context.Background(), "UPDATE account SET n = 2 WHERE id = 1")
		c, ok := undolog.AsConflict(err)
		if !ok || c.Holder != id {
			t.Fatalf("got %v, want a conflict with %s", err, id)
		}
	}
	d.mustSettle(id, true, at)
}

// What the fence rests on can't be lost or forged unnoticed.
func TestXAThatLostItsBeginningIsRefused(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	l := d.beginXA(newXID(), "UPDATE account SET n = 2 WHERE id = 1")
	l.exec("COMMIT")
	l.exec("BEGIN")
	d.wantState(l.tryPrepare(), undolog.SQLStateNotArmed)
	l.exec("ROLLBACK")
	l = d.beginXA(newXID())
	sql, args := undolog.Arm(l.id, l.branch, undolog.ArmOptions{})
	l.exec(sql, args...)
	l.exec("UPDATE account SET n = 3 WHERE id = 2")
	d.wantState(l.tryPrepare(), undolog.SQLStateNotArmed)
	l.exec("ROLLBACK")
	old := xid.New(xid.Parts{Begin: time.Now().Add(-25 * time.Hour), Incarnation: 1, Store: xid.StoreID{7}, Counter: 1})
	sql, args = undolog.BeginXA(old, l.branch, undolog.ArmOptions{})
	l.exec("BEGIN")
	_, err := l.conn.Exec(context.Background(), sql, args...)
	d.wantState(err, undolog.SQLStateDecided)
}

// A branch that lay prepared for longer than fences are kept.
func TestXAFencesAreKeptUntilTheyWereSeen(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	l := d.prepared(newXID(), "UPDATE account SET n = 2 WHERE id = 1")
	d.exec(d.own, "UPDATE handfast.meta SET max_age = '0.2 s'") // only now: it may join for no longer
	time.Sleep(time.Second)
	d.exec(d.own, "COMMIT PREPARED '"+l.gid()+"'")
	if _, err := undolog.GC(context.Background(), d.own, 100); err != nil {
		t.Fatal(err)
	}
	d.check(settleXA(d.own, l.id, true, l.xaVote(true)))
	time.Sleep(time.Second)
	if n, err := undolog.GC(context.Background(), d.own, 100); err != nil || n != 1 {
		t.Fatalf("%d dropped, %v", n, err)
	}
}

func TestXAIsListed(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	l := d.prepared(newXID(), "UPDATE account SET n = 2 WHERE id = 1")
	odd := d.connect()
	d.exec(odd, "BEGIN")
	d.exec(odd, "INSERT INTO bare VALUES (7)")
	d.exec(odd, "PREPARE TRANSACTION 'handfast:nobody'")
	got, err := undolog.PreparedBranches(context.Background(), d.own, 0)
	d.check(err)
	if len(got) != 2 || got[0].XID != l.id || got[0].Branch != l.branch || got[0].Owner == "" || !got[1].XID.IsZero() {
		t.Fatalf("got %+v", got)
	}
	if got, err := undolog.PreparedBranches(context.Background(), d.own, time.Hour); err != nil || len(got) != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
	i, err := undolog.InspectXA(context.Background(), d.own)
	d.check(err)
	if i.Slots != 100 || i.Used < 2 || !i.Superuser || len(i.Others) != 0 {
		t.Fatalf("got %+v", i)
	}
}

// Only the role that prepared a transaction, and superusers, can finish it.
func TestXAOfAnotherRole(t *testing.T) {
	t.Parallel()
	d := newXADatabase(t)
	d.exec(d.own, "CREATE ROLE xa_settler_test LOGIN")
	t.Cleanup(func() {
		d.exec(d.connect(), "DROP OWNED BY xa_settler_test; DROP ROLE xa_settler_test")
	})
	d.check(undolog.Grant(context.Background(), d.own, "xa_settler_test"))
	l := d.prepared(newXID(), "UPDATE account SET n = 2 WHERE id = 1")
	other := d.connect()
	d.exec(other, "SET ROLE xa_settler_test")
	for _, commit := range []bool{true, false} {
		if err := settleXA(other, l.id, commit, l.xaVote(true)); !errors.Is(err, undolog.ErrPrivilege) {
			t.Fatalf("got %v, want it to name the privilege", err)
		}
	}
	i, err := undolog.InspectXA(context.Background(), other)
	d.check(err)
	if i.Superuser || len(i.Others) != 1 {
		t.Fatalf("got %+v", i)
	}
	d.check(settleXA(d.own, l.id, true, l.xaVote(true)))
}

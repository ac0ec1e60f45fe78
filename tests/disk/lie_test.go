package disk

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tm"
)

// What follows says what becomes of it when a disk says that a sync is done, and has not
// done it, and the power goes. Nothing can make that safe. Some of it is found, by what
// others know: this is the list. docs/operations.md has it in words.

// liar is a world whose disk begins to lie at some time.
type liar struct {
	*testing.T
	run *run
}

func newLiar(t *testing.T) *liar {
	t.Helper()
	w, err := newWorld()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	s, err := newService("at", false, w.gates[0].addr(), w.gates[1].addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	l := &liar{t, &run{world: w, service: s, mode: "at"}}
	l.start(vfs.NewCrashableMem())
	t.Cleanup(func() { _ = l.run.life.end() })
	return l
}

func (l *liar) start(mem *vfs.MemFS) {
	l.Helper()
	if err := l.run.up(mem); err != nil {
		l.Fatal(err)
	}
}

// loses has the power go, and come back to the next coordinator. Everything that a sync
// has not brought to the disk is gone.
func (l *liar) loses() {
	l.Helper()
	counted.add("power losses of disks that lie", 1)
	l.run.drive.cut()
	l.run.bury(l.run.life)
	l.start(l.run.drive.after)
}

// toDeadline is how long transactions have here. Some tests let it pass, but what they do
// before has to be done by then, however busy the machine is.
const toDeadline = 4 * time.Second

// branches begins a transaction with a branch in each of two databases.
func (l *liar) branches(ctx context.Context) tm.Tx {
	l.Helper()
	t, err := l.run.m.Begin(ctx, tm.WithTimeout(toDeadline))
	if err != nil {
		l.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if err := l.run.dbs[name].exec(ctx, l.run.client, t.XID); err != nil {
			l.Fatal(err)
		}
	}
	return t
}

// until waits for something of which nobody tells.
func (l *liar) until(what string, is func(ctx context.Context) bool) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), patience)
	defer cancel()
	for !is(ctx) {
		if ctx.Err() != nil {
			l.Fatalf("in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (l *liar) quarantined(ctx context.Context) bool {
	s, err := l.run.admin.Status(ctx, &pb.StatusRequest{})
	return err == nil && s.GetQuarantined()
}

func (l *liar) transaction(ctx context.Context, t tm.Tx) *pb.Transaction {
	r, err := l.run.admin.Show(ctx, &pb.GetRequest{Xid: t.XID.String()})
	if err != nil {
		return nil
	}
	return r.GetTransaction()
}

// held is what is there, and how much of it is undecided.
func (l *liar) held(want int, lines ...string) {
	l.Helper()
	got, undecided := l.run.state()
	if !slices.Equal(got, lines) || undecided != want {
		l.Errorf("there is %q, %d undecided; want %q, %d", got, undecided, lines, want)
	}
}

// Found: a client that has heard of a registration which is gone puts the store into
// quarantine when it comes back, and nothing is undone.
func TestALieAboutRegistrationsIsFoundByWhoHeardOfThem(t *testing.T) {
	t.Parallel()
	l, ctx := newLiar(t), t.Context()
	l.run.drive.lie(".log")
	tx := l.branches(ctx)
	l.loses()
	l.until("quarantine", l.quarantined)
	if err := l.run.m.Commit(ctx, tx); err == nil || errors.Is(err, tm.ErrRolledBack) {
		t.Errorf("of what the store does not know it says: %v", err)
	}
	l.held(2, "a", "b") // undecided for ever, or until an operator says
}

// Found: the store's log is gone and the file beside it is not. The start is refused.
func TestALieAboutTheLogWhileItStartsRefusesTheNextStart(t *testing.T) {
	t.Parallel()
	l := newLiar(t)
	if err := l.run.life.end(); err != nil {
		t.Fatal(err)
	}
	drive := newDrive(l.run.drive.mem, fault{})
	drive.lie(".log")
	life, err := l.run.start(drive)
	if err != nil {
		t.Fatal(err)
	}
	drive.cut()
	l.run.bury(life)
	_, err = l.run.start(newDrive(drive.after, fault{}))
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "the end of its log is lost") {
		t.Errorf("it starts on what is left: %v", err)
	}
	l.start(vfs.NewCrashableMem()) // for the cleanup
}

// Found, as far as that goes: a store of which nothing is left is another one. Nobody's
// transaction is taken for one of its own, so nothing is undone; and nothing decided.
func TestALieAboutEverythingMakesAnotherStore(t *testing.T) {
	t.Parallel()
	l, ctx := newLiar(t), t.Context()
	if err := l.run.life.end(); err != nil {
		t.Fatal(err)
	}
	l.run.drive = newDrive(vfs.NewCrashableMem(), fault{})
	l.run.drive.lie("")
	life, err := l.run.start(l.run.drive)
	if err != nil {
		t.Fatal(err)
	}
	l.run.life = life
	tx := l.branches(ctx)
	l.loses()
	err = l.run.m.Commit(ctx, tx)
	if client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_FOREIGN_STORE {
		t.Errorf("of a transaction of the store that is gone it says: %v", err)
	}
	l.held(2, "a", "b")
}

// Found: a database that has settled what the store no longer knows to be decided. It
// refuses the opposite, and the transaction is shown to operators. What else took part
// is rolled back.
func TestALieAboutADecisionIsFoundByADatabaseThatHasSettled(t *testing.T) {
	t.Parallel()
	l, ctx := newLiar(t), t.Context()
	tx := l.branches(ctx)
	l.run.drive.lie(".log")
	if err := l.run.m.Commit(ctx, tx); err != nil {
		t.Fatal(err)
	}
	l.until("settled", func(context.Context) bool {
		_, undecided := l.run.state()
		return undecided == 0
	})
	l.loses()
	l.until("alarm", func(ctx context.Context) bool { return l.transaction(ctx, tx).GetAttention() })
	l.held(0, "a", "b")
}

// NOT found: a decision that was told to a caller, and that no database has heard of. The
// caller goes on as if it were committed, and it is rolled back.
func TestNotFoundALieAboutADecisionThatOnlyTheCallerHeardOf(t *testing.T) {
	t.Parallel()
	l, ctx := newLiar(t), t.Context()
	tx := l.branches(ctx)
	for _, d := range l.run.dbs {
		d.deaf.Store(true)
	}
	l.run.drive.lie(".log")
	if err := l.run.m.Commit(ctx, tx); err != nil {
		t.Fatal(err) // it is told that it is committed
	}
	l.run.drive.cut()
	l.run.bury(l.run.life)
	for _, d := range l.run.dbs {
		d.deaf.Store(false)
	}
	l.start(l.run.drive.after)
	l.until("its end", func(ctx context.Context) bool {
		return l.transaction(ctx, tx).GetPhase() == pb.Phase_PHASE_FINISHED
	})
	if o := l.transaction(ctx, tx).GetOutcome(); o != pb.Outcome_OUTCOME_ROLLED_BACK {
		t.Errorf("it is %s: then the documentation says less than is true", o)
	}
	if l.quarantined(ctx) || len(l.run.alarms) > 0 {
		t.Errorf("it is found, %q: then the documentation says less than is true", l.run.alarms)
	}
	l.held(0)
}

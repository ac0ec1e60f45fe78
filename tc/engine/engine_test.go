package engine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/xid"
)

func TestBeginIsAnsweredWithoutAForcedWrite(t *testing.T) {
	t.Parallel()
	st := newMemory()
	e, _ := run(t, st)
	begin(t, e)
	if n := st.Flushes(); n != 0 {
		t.Fatalf("%d forced writes", n)
	}
}

func TestNothingThatNeedsTheLogLeavesBeforeItIsForced(t *testing.T) {
	t.Parallel()
	st := newMemory()
	hold := make(chan struct{})
	st.hold = hold
	e, s := run(t, st)
	id := begin(t, e)
	e.Post(core.Attached{Resource: resource})

	reg := newWaiter()
	submit(t, e, core.Register{Ref: reg, XID: id, Branch: xid.BranchID{1}, Resource: resource, Mode: core.ModeAT})
	<-st.forcing
	// While the write is under way everything else may go on, but not get out.
	roll, get := newWaiter(), newWaiter()
	submit(t, e, core.Rollback{Ref: roll, XID: id, Cause: "x"})
	submit(t, e, core.Get{Ref: get, XID: id})
	begin(t, e)
	for _, w := range []*waiter{reg, roll, get} {
		w.none(t)
	}
	if len(s.settles) != 0 {
		t.Fatal("a rollback was sent before it was durable")
	}
	st.set(func() { st.hold = nil })
	close(hold)
	r := reg.wait(t)
	if r.Err != nil || r.durable > st.durableNow() || r.durable <= 10 {
		t.Fatalf("registration: %+v, durable is %d", r, st.durableNow())
	}
	if g := roll.wait(t); g.Tx.Outcome != core.RolledBack {
		t.Fatalf("rollback: %+v", g)
	}
	if g := get.wait(t); g.Tx.Outcome != core.RolledBack {
		t.Fatalf("get: %+v", g)
	}
	select {
	case c := <-s.settles:
		if c.XID != id || c.Outcome != core.RolledBack {
			t.Fatalf("settle: %+v", c)
		}
	case <-time.After(patience):
		t.Fatal("no settle command")
	}
}

func TestCallersShareForcedWrites(t *testing.T) {
	t.Parallel()
	st := newMemory()
	hold := make(chan struct{})
	st.hold = hold
	e, _ := run(t, st, func(c *engine.Config) { c.Shards = 4 })
	const n = 200
	ws := make([]*waiter, n)
	for i := range ws {
		id := begin(t, e)
		ws[i] = newWaiter()
		submit(t, e, core.Commit{Ref: ws[i], XID: id})
	}
	<-st.forcing
	st.set(func() { st.hold = nil })
	close(hold)
	for _, w := range ws {
		if g := w.wait(t); g.Tx.Outcome != core.Committed {
			t.Fatalf("commit: %+v", g)
		}
	}
	// The first was under way when the others came; how many the others take
	// depends on when each shard had its turn.
	if f := st.Flushes(); f > n/10 {
		t.Fatalf("%d forced writes for %d decisions", f, n)
	}
}

func TestAFinishedTransactionIsFoundInTheArchive(t *testing.T) {
	t.Parallel()
	e, _ := run(t, newMemory())
	id := begin(t, e)
	for range 2 {
		w := newWaiter()
		submit(t, e, core.Commit{Ref: w, XID: id})
		if g := w.wait(t); g.Err != nil || g.Tx.Outcome != core.Committed {
			t.Fatalf("commit: %+v", g)
		}
	}
	w := newWaiter()
	submit(t, e, core.Rollback{Ref: w, XID: id})
	if g := w.wait(t); g.Err == nil || g.Err.Kind != core.ErrCommitted {
		t.Fatalf("rollback after commit: %+v", g)
	}
	if e.Open() != 0 {
		t.Fatalf("%d open", e.Open())
	}
}

func TestAFailedWriteIsTheEnd(t *testing.T) {
	t.Parallel()
	planted := errors.New("planted")
	for name, plant := range map[string]func(*memory){
		"error": func(m *memory) { m.fail = planted },
		"panic": func(m *memory) { m.panics = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newMemory()
			told := make(chan error, 2)
			e, _ := run(t, st, func(c *engine.Config) { c.Fatal = func(err error) { told <- err } })
			id := begin(t, e)
			st.set(func() { plant(st) })
			w := newWaiter()
			submit(t, e, core.Commit{Ref: w, XID: id})
			select {
			case <-e.Dead():
			case <-time.After(patience):
				t.Fatal("the engine lives")
			}
			if err := <-told; !errors.Is(err, engine.ErrFailed) {
				t.Fatalf("told %v", err)
			}
			if err := e.Submit(core.Commit{Ref: w, XID: id}); !errors.Is(err, engine.ErrFailed) {
				t.Fatalf("submit gives %v", err)
			}
			if err := e.Close(); !errors.Is(err, engine.ErrFailed) {
				t.Fatalf("close gives %v", err)
			}
			w.none(t)
			if _, _, err := e.List(context.Background(), xid.ID{}, 10, all); !errors.Is(err, engine.ErrFailed) {
				t.Fatalf("list gives %v", err)
			}
		})
	}
}

// A forced write that fails must not let out what waited for it.
func TestAFailedForceTellsNobody(t *testing.T) {
	t.Parallel()
	st := newMemory()
	hold := make(chan struct{})
	st.hold = hold
	e, s := run(t, st)
	id := begin(t, e)
	e.Post(core.Attached{Resource: resource})
	w := newWaiter()
	submit(t, e, core.Register{Ref: w, XID: id, Branch: xid.BranchID{1}, Resource: resource, Mode: core.ModeAT})
	<-st.forcing
	st.set(func() { st.fail = errors.New("planted") })
	close(hold)
	<-e.Dead()
	_ = e.Close()
	w.none(t)
	if len(s.settles) != 0 {
		t.Fatal("something was sent")
	}
}

func TestAFullQueueRefusesAndThenHasRoomAgain(t *testing.T) {
	t.Parallel()
	st := newMemory()
	e, err := engine.New(context.Background(), st, engine.Config{Shards: 1, Queue: 2})
	if err != nil {
		t.Fatal(err)
	}
	id, now := e.NewXID()
	in := core.Begin{Ref: newWaiter(), XID: id, Deadline: now.Add(time.Hour)}
	// Nothing is taken before Start.
	if err := errors.Join(e.Submit(in), e.Submit(core.Get{Ref: newWaiter(), XID: id})); err != nil {
		t.Fatal(err)
	}
	last := core.Get{Ref: newWaiter(), XID: id}
	if err := e.Submit(last); !errors.Is(err, engine.ErrFull) {
		t.Fatalf("a full queue gives %v", err)
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.SubmitWait(over, last); !errors.Is(err, context.Canceled) {
		t.Fatalf("a full queue gives a caller without time %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- e.SubmitWait(context.Background(), last) }()
	e.Post(core.Attached{Resource: resource}) // never refused
	e.Start(newSink())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	last.Ref.(*waiter).wait(t)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Submit(last); !errors.Is(err, engine.ErrStopped) {
		t.Fatalf("a closed engine gives %v", err)
	}
}

func TestCloseForcesWhatWasNotYet(t *testing.T) {
	t.Parallel()
	st := newMemory()
	e, _ := run(t, st)
	begin(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if st.durableNow() < st.Position() {
		t.Fatalf("durable up to %d of %d", st.durableNow(), st.Position())
	}
}

func TestARestartGoesOnFromTheLog(t *testing.T) {
	t.Parallel()
	st := newMemory()
	e, _ := run(t, st)
	id := begin(t, e)
	register(t, e, id, 1)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	st.meta.Incarnation++
	st.ends[2] = st.position
	again, _ := run(t, st, func(c *engine.Config) { c.Shards = 3 })
	if again.Open() != 1 {
		t.Fatalf("%d open", again.Open())
	}
	w := newWaiter()
	submit(t, again, core.CastVote{Ref: w, XID: id, Branch: xid.BranchID{1}, Vote: core.VoteYes})
	w.wait(t)
	submit(t, again, core.Commit{Ref: w, XID: id})
	if g := w.wait(t); g.Tx.Outcome != core.Committed {
		t.Fatalf("commit: %+v", g)
	}
}

func TestTheClockNeverGoesBack(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	now := time.UnixMilli(2_000_000_000_000)
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	st := newMemory()
	e, _ := run(t, st, func(c *engine.Config) { c.Now = clock })
	first := begin(t, e)
	mu.Lock()
	now = now.Add(-time.Hour)
	mu.Unlock()
	second := begin(t, e)
	if second.Begin().Before(first.Begin()) {
		t.Fatal("an XID went back in time")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	// Not behind what a former run has recorded, either.
	again, _ := run(t, st, func(c *engine.Config) { c.Now = clock })
	if third, _ := again.NewXID(); third.Begin().Before(first.Begin()) {
		t.Fatal("an XID of a later run went back in time")
	}
}

func TestEveryXIDIsNewAndSpreadOverAllShards(t *testing.T) {
	t.Parallel()
	e, _ := run(t, newMemory(), func(c *engine.Config) { c.Shards = 4 })
	seen := make(map[xid.ID]bool)
	for range 5000 {
		id, _ := e.NewXID()
		if seen[id] || id.Store() != testStore || id.Incarnation() != 2 {
			t.Fatalf("XID %s", id)
		}
		seen[id] = true
	}
}

func TestTimeDecidesWithoutAnybodyAsking(t *testing.T) {
	t.Parallel()
	e, _ := run(t, newMemory())
	id, now := e.NewXID()
	w := newWaiter()
	submit(t, e, core.Begin{Ref: w, XID: id, Deadline: now.Add(time.Second)})
	if r := w.wait(t); r.Err != nil {
		t.Fatal(r.Err)
	}
	submit(t, e, core.Wait{Ref: w, XID: id, Until: now.Add(time.Hour)})
	if g := w.wait(t); g.Tx.Outcome != core.RolledBack || g.Tx.Reason != core.ReasonTimeout {
		t.Fatalf("wait: %+v", g)
	}
}

func TestCrashPointsStandBeforeTheStoreAndBeforeAnybodyIsTold(t *testing.T) {
	t.Parallel()
	st := newMemory()
	w := newWaiter()
	type at struct {
		point    string
		position uint64
		durable  uint64
		told     int
	}
	points := make(chan at, 20)
	e, _ := run(t, st, func(c *engine.Config) {
		c.CrashPoint = func(p string) { points <- at{p, st.Position(), st.durableNow(), len(w.ch)} }
	})
	id := begin(t, e)
	register(t, e, id, 1)
	for len(points) > 0 {
		if p := <-points; p.point == engine.BeforeDecision || p.point == engine.AfterDecision {
			t.Fatal("a crash point without a decision")
		}
	}
	before := st.Position()
	submit(t, e, core.Rollback{Ref: w, XID: id})
	for _, want := range []string{engine.BeforeWrite, engine.BeforeDecision, engine.AfterWrite, engine.AfterForce, engine.AfterDecision} {
		a := <-points
		written := want == engine.AfterWrite || want == engine.AfterForce || want == engine.AfterDecision
		durable := want == engine.AfterForce || want == engine.AfterDecision
		if a.point != want || (a.position > before) != written || (a.durable > before) != durable || a.told != 0 {
			t.Fatalf("want %s, got %+v; position was %d", want, a, before)
		}
	}
	w.wait(t)
}

func all(*core.Transaction) bool { return true }

// A page is bounded in bytes, too: whoever lists pays for its notes in memory.
func TestListGivesFewOfWhatIsLarge(t *testing.T) {
	t.Parallel()
	e, _ := run(t, newMemory())
	const n = 12
	for i := range n {
		id, now := e.NewXID()
		w := newWaiter()
		submit(t, e, core.Begin{Ref: w, XID: id, Deadline: now.Add(time.Hour), Note: make([]byte, 4<<20)})
		w.wait(t)
		if i%2 == 0 {
			w = newWaiter()
			submit(t, e, core.Commit{Ref: w, XID: id})
			w.wait(t)
		}
	}
	seen, pages := 0, 0
	var before xid.ID
	for {
		found, next, err := e.List(context.Background(), before, 100, all)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 6 {
			t.Errorf("a page holds %d large transactions", len(found))
		}
		seen, pages, before = seen+len(found), pages+1, next
		if next.IsZero() {
			break
		}
	}
	if seen != n || pages < 2 {
		t.Errorf("%d transactions in %d pages, want %d", seen, pages, n)
	}
}

func TestListGivesEveryTransactionOnceNewestFirst(t *testing.T) {
	t.Parallel()
	e, _ := run(t, newMemory())
	want := map[xid.ID]bool{}
	for i := range 40 {
		id := begin(t, e)
		want[id] = true
		if i%3 == 0 {
			w := newWaiter()
			submit(t, e, core.Commit{Ref: w, XID: id})
			w.wait(t)
		}
	}
	var before xid.ID
	pages := 0
	for {
		found, next, err := e.List(context.Background(), before, 7, all)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		last := before
		for _, tx := range found {
			if !want[tx.XID] || (!last.IsZero() && string(tx.XID[:]) >= string(last[:])) {
				t.Fatalf("%s came again, or out of order", tx.XID)
			}
			delete(want, tx.XID)
			last = tx.XID
		}
		if next.IsZero() {
			break
		}
		before = next
	}
	if len(want) != 0 || pages < 6 {
		t.Fatalf("%d were left out over %d pages", len(want), pages)
	}
}

func TestListTellsOnlyWhatIsDurable(t *testing.T) {
	t.Parallel()
	st := newMemory()
	hold := make(chan struct{})
	st.hold = hold
	e, _ := run(t, st)
	id := begin(t, e)
	w := newWaiter()
	submit(t, e, core.Commit{Ref: w, XID: id}) // finished at once: it has no branch
	<-st.forcing
	done := make(chan []core.Transaction, 1)
	seen := make(chan struct{}, 10)
	go func() {
		found, _, _ := e.List(context.Background(), xid.ID{}, 10, func(*core.Transaction) bool { seen <- struct{}{}; return true })
		done <- found
	}()
	<-seen // it has looked
	select {
	case <-done:
		t.Fatal("the decision was told before it was durable")
	case <-time.After(20 * time.Millisecond):
	}
	st.set(func() { st.hold = nil })
	close(hold)
	if found := <-done; len(found) != 1 || found[0].Outcome != core.Committed {
		t.Fatalf("found %+v", found)
	}
}

func TestWhatIsTooOldIsDroppedAndCalledExpired(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	e, _ := run(t, newMemory(), func(c *engine.Config) {
		c.Now, c.Retention, c.ExpireEvery = clock, time.Hour, time.Millisecond
	})
	id := begin(t, e)
	w := newWaiter()
	submit(t, e, core.Commit{Ref: w, XID: id})
	w.wait(t)
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	deadline := time.Now().Add(patience)
	for {
		submit(t, e, core.Get{Ref: w, XID: id})
		g := w.wait(t)
		if g.Err != nil && g.Err.Kind == core.ErrExpiredXID {
			return
		}
		if g.Err != nil || time.Now().After(deadline) {
			t.Fatalf("get: %+v", g)
		}
	}
}

func TestWatchersHearOfEachStateInOrder(t *testing.T) {
	t.Parallel()
	e, s := run(t, newMemory())
	e.SetWatch(true)
	id := begin(t, e)
	register(t, e, id, 1)
	w := newWaiter()
	submit(t, e, core.Rollback{Ref: w, XID: id})
	w.wait(t)
	phases := []core.Phase{core.Active, core.Active, core.Settling}
	for i, want := range phases {
		select {
		case tx := <-s.changed:
			if tx.XID != id || tx.Phase != want || len(tx.Branches) != min(i, 1) {
				t.Fatalf("change %d: %+v", i, tx)
			}
		case <-time.After(patience):
			t.Fatalf("change %d did not come", i)
		}
	}
}

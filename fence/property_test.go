package fence_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/handfast/handfast/fence"
)

// A worker makes one call at a time on a connection of its own, and stops at gates
// until it is told to go on.
type worker struct {
	call  fence.Call
	level string
	pid   uint32
	state atomic.Int32
	gate  chan bool // true: go on; false: fail here
	done  answer
	dead  bool // its backend was killed
}

const (
	idle int32 = iota
	running
	gated
	ended
)

func (w *worker) stop() bool {
	w.state.Store(gated)
	return <-w.gate
}

func (w *worker) work(ctx context.Context, conn *pgxpool.Conn) {
	defer conn.Release()
	w.done.out, w.done.err = func() (out fence.Outcome, err error) {
		tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.TxIsoLevel(w.level)})
		if err != nil {
			return out, err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		if _, err := tx.Exec(ctx, "SELECT FROM effect LIMIT 1"); err != nil { // above READ COMMITTED: a snapshot
			return out, err
		}
		if !w.stop() {
			return out, errAction
		}
		out, err = fence.Do(ctx, tx, w.call, func(ctx context.Context) ([]byte, error) {
			res, err := effect(ctx, tx, w.call)
			if err == nil && !w.stop() {
				err = errAction
			}
			return res, err
		})
		if err != nil {
			return out, err
		}
		if !w.stop() {
			return out, errAction
		}
		return out, tx.Commit(ctx)
	}()
	w.state.Store(ended)
}

// TestRandomInterleavings lets several connections call the actions of few branches,
// in any order and at once, with failures and killed backends, and looks after each
// step at what is committed.
func TestRandomInterleavings(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	pool := d.pool()
	seen := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		p := &play{rt: rt, d: d, ctx: ctx, seen: seen, undone: map[fence.Call]bool{}}
		for range rapid.IntRange(1, 2).Draw(rt, "branches") {
			b := newCall()
			p.branches = append(p.branches, b)
			if rapid.Bool().Draw(rt, "begun") {
				if _, err := run(d.t, d.own, b); err != nil {
					rt.Fatal(err)
				}
			}
		}
		for range rapid.IntRange(2, 4).Draw(rt, "connections") {
			p.workers = append(p.workers, &worker{gate: make(chan bool)})
		}
		defer p.finish(false)
		for range rapid.IntRange(8, 30).Draw(rt, "steps") {
			w := p.workers[rapid.IntRange(0, len(p.workers)-1).Draw(rt, "worker")]
			switch w.state.Load() {
			case idle:
				conn, err := pool.Acquire(ctx)
				if err != nil {
					rt.Fatal(err)
				}
				w.call = as(p.branches[rapid.IntRange(0, len(p.branches)-1).Draw(rt, "branch")],
					rapid.SampledFrom([]fence.Action{fence.Forward, fence.Commit, fence.Rollback, fence.Rollback}).Draw(rt, "action"))
				w.level = rapid.SampledFrom(append(levels, levels[0])).Draw(rt, "level")
				w.pid, w.dead, w.done = conn.Conn().PgConn().PID(), false, answer{}
				w.state.Store(running)
				go w.work(ctx, conn)
			case gated:
				how := rapid.SampledFrom([]string{"go on", "go on", "go on", "go on", "go on", "go on", "fail", "kill"}).Draw(rt, "how")
				if how == "kill" {
					p.kill(w)
				}
				w.state.Store(running)
				w.gate <- how != "fail"
			case running: // it waits for a lock
				if rapid.IntRange(0, 3).Draw(rt, "kill a waiter") == 0 {
					p.kill(w)
				}
			}
			p.settle()
			p.look()
		}
		p.finish(true)
		// Whatever happened, a coordinator that rolls back gets an answer, and it holds.
		for _, b := range p.branches {
			out, err := run(d.t, d.own, as(b, fence.Rollback))
			p.judge(as(b, fence.Rollback), out, err, false)
			_, err = run(d.t, d.own, b)
			if committed := d.effects(as(b, fence.Commit)) == 1; errors.Is(err, fence.ErrLate) == committed {
				rt.Fatalf("at the end forward of %s is answered with %v", b.Branch, err)
			}
		}
		p.look()
	})
	for _, what := range []string{"ran", "repeated", "empty", "late", "no forward", "contradicted", "40001", "waited", "killed"} {
		if seen[what] == 0 {
			t.Errorf("the calls never came to %q: %v", what, seen)
		}
	}
	t.Log(seen)
}

// play is one random history.
type play struct {
	rt       *rapid.T
	d        *database
	ctx      context.Context
	branches []fence.Call
	workers  []*worker
	seen     map[string]int
	undone   map[fence.Call]bool // of forward: its rollback was acknowledged, or it was told to be late
}

func (p *play) kill(w *worker) {
	p.seen["killed"]++
	w.dead = true
	p.d.kill(w.pid)
}

// settle returns when nobody moves any more: all are idle, at a gate, or wait for a
// lock. Whoever moves may let another one go on, so it looks until nobody has.
func (p *play) settle() {
	for moved := true; moved; {
		moved = false
		for _, w := range p.workers {
			for w.state.Load() == running {
				var waits bool
				if err := p.d.own.QueryRow(p.ctx, `SELECT EXISTS (SELECT FROM pg_locks
					WHERE pid = $1 AND NOT granted AND locktype IN ('transactionid', 'tuple'))`, int32(w.pid)).Scan(&waits); err != nil {
					p.rt.Fatal(err)
				}
				if waits {
					p.seen["waited"]++
					break
				}
				moved = true
			}
			if w.state.Load() == ended {
				p.judge(w.call, w.done.out, w.done.err, w.dead)
				w.state.Store(idle)
				moved = true
			}
		}
	}
}

// finish lets everybody end.
func (p *play) finish(judge bool) {
	for deadline := time.Now().Add(patience); ; {
		busy := false
		for _, w := range p.workers {
			switch w.state.Load() {
			case gated:
				w.state.Store(running)
				w.gate <- judge
				busy = true
			case running:
				busy = true
			}
		}
		if judge {
			p.settle()
		}
		if !busy || time.Now().After(deadline) {
			return
		}
	}
}

// judge takes the answer to a call.
func (p *play) judge(c fence.Call, out fence.Outcome, err error, dead bool) {
	forward := as(c, fence.Forward)
	p.rt.Logf("%s: %+v %v", c, out, err)
	switch {
	case err == nil && c.Action == fence.Rollback:
		p.undone[forward] = true
		if out.Empty {
			p.seen["empty"]++
			if len(out.Result) != 0 || p.d.effects(c) != 0 {
				p.rt.Fatalf("%s was empty, and has an effect or a result", c)
			}
			return
		}
		p.result(c, out)
	case err == nil:
		p.result(c, out)
	case errors.Is(err, fence.ErrLate):
		p.seen["late"]++
		p.undone[forward] = true
	case errors.Is(err, fence.ErrNoForward):
		p.seen["no forward"]++
	case errors.Is(err, fence.ErrContradicted):
		p.seen["contradicted"]++
	case sqlState(err) == "40001":
		p.seen["40001"]++
	case errors.Is(err, errAction), errors.Is(err, fence.ErrBusy), dead:
	default:
		p.rt.Fatalf("%s: %v", c, err)
	}
}

// result compares an answer with the effect that is committed.
func (p *play) result(c fence.Call, out fence.Outcome) {
	p.seen[map[bool]string{false: "ran", true: "repeated"}[out.Repeated]]++
	var by string
	if err := p.d.own.QueryRow(p.ctx, "SELECT by FROM effect WHERE call = $1", c.Key()).Scan(&by); err != nil {
		p.rt.Fatalf("%s was answered as done: %v", c, err)
	}
	if by != string(out.Result) {
		p.rt.Fatalf("%s was answered with %q, its effect is of %q", c, out.Result, by)
	}
}

// look holds what is committed against what must never be.
func (p *play) look() {
	for _, b := range p.branches {
		var f, c, r int
		if err := p.d.own.QueryRow(p.ctx, `SELECT count(*) FILTER (WHERE call = $1), count(*) FILTER (WHERE call = $2), count(*) FILTER (WHERE call = $3) FROM effect`,
			b.Key(), as(b, fence.Commit).Key(), as(b, fence.Rollback).Key()).Scan(&f, &c, &r); err != nil {
			p.rt.Fatal(err)
		}
		switch what := fmt.Sprintf("branch %s: effects forward %d, commit %d, rollback %d", b.Branch, f, c, r); {
		case f > 1 || c > 1 || r > 1:
			p.rt.Fatal("twice: " + what)
		case c+r > f:
			p.rt.Fatal("ended without a forward action, or both ways: " + what)
		case p.undone[b] && f != r:
			p.rt.Fatal("rolled back, and still there: " + what)
		}
	}
}

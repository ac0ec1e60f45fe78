package histories

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/tests/histories/adya"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/undolog"
)

// crowd is one random history of one use.
type crowd struct {
	*record
	use
}

// step is one read or write of a transaction, on a random row.
func (c *crowd) step(ctx context.Context, t *trial, q undolog.DB, db int, r *rand.Rand) error {
	row := c.rows[r.IntN(len(c.rows))]
	if t.blocked(db, row) && r.IntN(8) > 0 {
		return nil // now and then it finds out by itself
	}
	if c.reads != "" && r.IntN(3) == 0 {
		_, err := t.read(ctx, q, db, c.reads, row)
		return err
	}
	if !c.computes {
		return t.write(ctx, q, db, row, nil)
	}
	list, err := t.read(ctx, q, db, c.reads, row)
	if err != nil {
		return err
	}
	return t.write(ctx, q, db, row, &list)
}

// local is a local transaction with a few steps.
func (c *crowd) local(ctx context.Context, t *trial, b interface {
	BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error)
}, db int, r *rand.Rand, beforeCommit func(),
) error {
	return local(ctx, b, c.level, func(tx pgx.Tx) error {
		for range 1 + r.IntN(3) {
			if err := c.step(ctx, t, tx, db, r); err != nil {
				return err
			}
		}
		beforeCommit()
		return nil
	})
}

// global runs a global transaction over both databases to one of its ends.
func (c *crowd) global(ctx context.Context, r *rand.Rand) error {
	t := c.trial("global")
	end := r.IntN(10) // up to 5: commit; 6, 7: rollback; 8, 9: the deadline
	timeout := 20 * time.Second
	if end >= 8 {
		timeout = time.Duration(15+r.IntN(40)) * time.Millisecond
	}
	x, err := c.l.m.Begin(ctx, tm.WithTimeout(timeout), tm.WithWaitSettled())
	if err != nil {
		return err
	}
	locals := 1 + r.IntN(3)
	if c.single {
		locals = 1
	}
	for t.local = range locals {
		db := r.IntN(2)
		if c.single {
			db = 0
		}
		t.hidden = c.modes == onlyXA || c.modes == bothModes && r.IntN(2) == 0
		if err = c.local(c.l.as(x.Context(ctx), t.hidden), t, c.l.bases[db].pool, db, r, func() {}); err != nil {
			break
		}
	}
	switch {
	case err != nil && !refused(err):
		return err
	case end >= 8:
		return t.expire(ctx, x)
	case err != nil || end >= 6:
		return t.rollback(ctx, x)
	default:
		return t.commit(ctx, x)
	}
}

// session is a transaction of a plain session.
func (c *crowd) session(ctx context.Context, r *rand.Rand) error {
	t := c.trial("session")
	db := r.IntN(2)
	if c.single {
		db = 0
	}
	err := c.local(ctx, t, c.l.bases[db].plain, db, r, func() { t.tx.Asked = clock() })
	if err != nil && !refused(err) {
		return err
	}
	if err != nil {
		t.end(adya.Aborted)
	} else {
		t.end(adya.Committed)
	}
	return nil
}

// look reads all rows of both databases, each at one moment: in one statement, or above
// READ COMMITTED in one transaction.
func (c *crowd) look(ctx context.Context, r *rand.Rand) error {
	t := c.trial("reader")
	t.moment()
	for db := range 2 {
		err := local(ctx, c.l.bases[db].plain, c.level, func(tx pgx.Tx) error {
			if c.level == rc {
				_, err := t.read(ctx, tx, db, c.looks, c.rows...)
				return err
			}
			for _, i := range r.Perm(len(c.rows)) {
				if _, err := t.read(ctx, tx, db, c.looks, c.rows[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && !refused(err) {
			return err
		}
	}
	t.tx.Asked = clock()
	t.end(adya.Committed)
	return nil
}

// Who takes part in one history.
const (
	crowdRows     = 2 // in each database
	crowdGlobals  = 4
	crowdSessions = 2
	crowdReaders  = 2
	crowdTimes    = 3 // what each of them does
)

// run makes one history, and gives what must not be in it.
func (l *lab) run(ctx context.Context, u use, n uint64, sum *counts) (bad []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	rec, err := l.record(ctx, crowdRows)
	if err != nil {
		return nil, err
	}
	c := &crowd{rec, u}
	var wg sync.WaitGroup
	errs := make(chan error, crowdGlobals+crowdSessions+crowdReaders)
	spawn := func(many int, f func(context.Context, *rand.Rand) error) {
		for i := range many {
			r := newRand(n<<8 + uint64(len(errs)) + uint64(i) + uint64(many)<<4)
			wg.Go(func() {
				for range crowdTimes {
					if err := f(ctx, r); err != nil {
						errs <- err
						return
					}
				}
			})
		}
	}
	spawn(crowdGlobals, c.global)
	spawn(crowdSessions, c.session)
	if u.looks != "" {
		spawn(crowdReaders, c.look)
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		return nil, fmt.Errorf("%s, %s: %w", u.name, u.level, err)
	}
	all, err := rec.found(ctx)
	if err != nil {
		return nil, err
	}
	sum.add("histories", 1)
	sum.add("histories at "+string(u.level), 1)
	sum.add("histories "+u.modes.String(), 1)
	sum.add("transactions", len(rec.h.Txns))
	for _, t := range rec.h.Txns {
		sum.add("operations", len(t.Ops))
		sum.add("transactions "+t.Outcome.String(), 1)
	}
	kinds := map[adya.Kind]bool{}
	for _, a := range all {
		if slices.Contains(u.never, a.Kind) {
			bad = append(bad, fmt.Sprintf("%s at %s, history of %s: %s\n%s", u.name, u.level, strings.Join(rec.rows, " and "), a, rec))
		}
		if !kinds[a.Kind] {
			kinds[a.Kind] = true
			sum.add("possible and found: "+string(a.Kind), 1)
		}
	}
	return bad, nil
}

// String lists the transactions in the order of their end.
func (r *record) String() string {
	var b strings.Builder
	for _, t := range r.h.Txns {
		fmt.Fprintf(&b, "  %s, %s:", t.Name, t.Outcome)
		for _, op := range t.Ops {
			if op.Write != 0 {
				fmt.Fprintf(&b, " %s wrote %v over %d;", op.Key, op.List, op.Over)
			} else {
				fmt.Fprintf(&b, " %s read %v;", op.Key, op.List)
			}
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "  at the end: %v\n", r.h.Final)
	return b.String()
}

// crowds is how many histories are made at the same time, on rows of their own.
const crowds = 4

// play makes histories of the uses in turn for some time, and at least one of each; or
// until one holds what it must not.
func (l *lab) play(ctx context.Context, all []use, d time.Duration, sum *counts) (bad []string, err error) {
	until := time.Now().Add(d)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var n atomic.Int64
	for range crowds {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(n.Add(1)) - 1
				if i >= len(all) && !time.Now().Before(until) {
					return
				}
				found, e := l.run(ctx, all[i%len(all)], uint64(i), sum)
				mu.Lock()
				if bad = append(bad, found...); e != nil && err == nil && ctx.Err() == nil {
					err = e
				}
				if len(bad) > 0 || err != nil {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return bad, err
}

func TestIsolationIsAsTheTableSays(t *testing.T) {
	t.Parallel()
	l := newLab(t, true)
	since := time.Now()
	sum := &counts{}
	bad, err := l.play(t.Context(), played(*longFlag > 0), lasts(4*time.Second), sum)
	if err != nil {
		t.Error(err)
	}
	for _, b := range bad {
		t.Error(b)
	}
	sum.report(t, "histories-isolation", "go test ./tests/histories -run Isolation -histories.for "+longFlag.String()+" -timeout 2h", since, bad)
	for _, k := range []string{"transactions committed", "transactions rolled back"} {
		if sum.get(k) < 50 {
			t.Errorf("too little happened to mean anything: %v", sum.all())
		}
	}
}

package undolog_test

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

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/undolog"
)

// BenchmarkLitter runs branches at full speed for as long as -benchtime says and
// logs every 30 s what our tables and indexes take up, with -v while it runs. One
// branch in twenty is rolled back. With the janitor, its round comes every 15 s,
// as in package rm, and an XID may join for one minute instead of a day, so that
// fences are dropped after two. Without, there is autovacuum alone, with the
// defaults of Postgres, and the fences of the whole run stay. A run of five
// minutes or more fails where what is used for intents goes on growing.
func BenchmarkLitter(b *testing.B) {
	for _, janitor := range []bool{false, true} {
		b.Run(fmt.Sprintf("janitor=%t", janitor), func(b *testing.B) {
			c := pgtest.New(pgserver.Options{})
			b.Cleanup(func() { _ = c.Server(b).Stop(context.Background()) })
			d := &database{t: b, dsn: c.DSN(b)}
			d.own = d.connect()
			if err := undolog.Install(context.Background(), d.own); err != nil {
				b.Fatal(err)
			}
			d.exec(d.own, "CREATE TABLE g (id int PRIMARY KEY, v int); INSERT INTO g SELECT i, 0 FROM generate_series(1, 100000) i; ANALYZE")
			if _, err := undolog.Protect(context.Background(), d.own, "g"); err != nil {
				b.Fatal(err)
			}
			l := &litter{d: d, work: make(chan struct{}), settle: make(chan undolog.Settlement, 1024), begun: time.Now()}
			if janitor {
				d.exec(d.own, "UPDATE handfast.meta SET max_age = '1 minute'")
			}
			l.run(b, janitor)
		})
	}
}

type litter struct {
	d       *database
	work    chan struct{}
	settle  chan undolog.Settlement
	begun   time.Time
	done    atomic.Int64
	refused atomic.Int64
	intents []float64 // MB at each look
}

func (l *litter) run(b *testing.B, janitor bool) {
	b.Helper()
	var workers, others sync.WaitGroup
	for range 4 {
		conn := l.d.connect()
		workers.Go(func() { l.worker(b, conn) })
	}
	settler := l.d.connect()
	others.Go(func() { l.settler(b, settler) })
	ctx, stop := context.WithCancel(context.Background())
	look := l.d.connect()
	others.Go(func() { every(ctx, 30*time.Second, func() { l.report(b, look) }) })
	if janitor {
		conn := l.d.connect()
		others.Go(func() { every(ctx, 15*time.Second, func() { l.janitor(b, conn) }) })
	}
	for b.Loop() {
		l.work <- struct{}{}
	}
	close(l.work)
	workers.Wait()
	close(l.settle)
	stop()
	others.Wait()
	l.report(b, l.d.own)
	if n := l.d.litter(); n != 0 {
		b.Errorf("%d rows are left", n)
	}
	b.ReportMetric(float64(l.done.Load())/time.Since(l.begun).Seconds(), "branches/s")
	if half := len(l.intents) / 2; half >= 5 && slices.Max(l.intents[half:]) > 1.5*slices.Max(l.intents[:half])+16 {
		b.Errorf("what is used for intents grows: %.0f MB", l.intents)
	}
}

func every(ctx context.Context, pause time.Duration, f func()) {
	t := time.NewTicker(pause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

// worker is a service: each round a branch that changes a row, in two flushes.
func (l *litter) worker(b *testing.B, conn *pgx.Conn) {
	b.Helper()
	ctx := context.Background()
	for range l.work {
		id, branch := newXID(), newBranch()
		batch := &pgx.Batch{}
		batch.Queue("BEGIN")
		sql, args := undolog.Arm(id, branch, undolog.ArmOptions{LockTimeout: time.Second})
		batch.Queue(sql, args...)
		batch.Queue("UPDATE g SET v = v + 1 WHERE id = $1", rand.IntN(100000)+1)
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			if sqlState(err) != undolog.SQLStateConflict {
				b.Error(err)
			}
			l.refused.Add(1)
			if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
				b.Error(err)
			}
			continue
		}
		batch = &pgx.Batch{}
		sql, args = undolog.Seal(witness)
		batch.Queue(sql, args...)
		batch.Queue("COMMIT")
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			b.Error(err)
		}
		l.settle <- undolog.Settlement{XID: id, Commit: rand.IntN(20) > 0, Branches: []undolog.BranchVote{{ID: branch, Yes: true}}}
	}
}

// settler takes what has queued, up to 128 at once.
func (l *litter) settler(b *testing.B, conn *pgx.Conn) {
	b.Helper()
	for first := range l.settle {
		list := append(make([]undolog.Settlement, 0, 128), first)
		for len(list) < 128 && len(l.settle) > 0 {
			list = append(list, <-l.settle) // nobody else receives
		}
		for _, r := range undolog.Settle(context.Background(), conn, list, undolog.SettleOptions{}) {
			if r.Err != nil {
				b.Error(r.Err)
			}
		}
		l.done.Add(int64(len(list)))
	}
}

func (l *litter) janitor(b *testing.B, conn *pgx.Conn) {
	b.Helper()
	for {
		n, err := undolog.GC(context.Background(), conn, 50_000)
		if err != nil {
			b.Error(err)
		}
		if n < 50_000 {
			break
		}
	}
	due, err := undolog.VacuumDue(context.Background(), conn, undolog.VacuumDead)
	if err == nil {
		err = undolog.Vacuum(context.Background(), conn, due...)
	}
	if err != nil {
		b.Error(err)
	}
}

func (l *litter) report(b *testing.B, conn *pgx.Conn) {
	b.Helper()
	rows, err := conn.Query(context.Background(), `SELECT c.relname, pg_table_size(c.oid) / 1048576.0, pg_indexes_size(c.oid) / 1048576.0, s.n_dead_tup
		FROM pg_class c JOIN pg_stat_all_tables s ON s.relid = c.oid
		WHERE c.relnamespace = 'handfast'::regnamespace AND c.relname IN ('undo', 'gate', 'fence', 'step', 'settling') ORDER BY 1`)
	if err != nil {
		b.Error(err)
		return
	}
	var name string
	var heap, index, intents float64
	var dead int64
	var sizes strings.Builder
	if _, err := pgx.ForEachRow(rows, []any{&name, &heap, &index, &dead}, func() error {
		fmt.Fprintf(&sizes, " %s %.1f + %.1f (%d dead)", name, heap, index, dead)
		if name != "fence" {
			intents += heap + index
		}
		return nil
	}); err != nil {
		b.Error(err)
	}
	l.intents = append(l.intents, intents)
	took := time.Since(l.begun)
	b.Logf("%s: %d branches settled, %.0f/s, %d refused; MB of heap + indexes:%s",
		took.Round(time.Second), l.done.Load(), float64(l.done.Load())/took.Seconds(), l.refused.Load(), sizes.String())
}

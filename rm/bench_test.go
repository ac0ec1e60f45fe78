package rm_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// BenchmarkUpdate is one explicit transaction that updates one row: with plain
// pgx, and under a global transaction that is begun and committed for it. There
// ns/op has everything in it, begin, commit and phase two until nothing is left
// of it; us/tx is the time of the local transaction alone, as its caller sees it.
// The server syncs its log, unlike that of the tests.
func BenchmarkUpdate(b *testing.B) {
	durable := pgtest.New(pgserver.Options{Durable: true, Settings: map[string]string{"max_prepared_transactions": "1000"}})
	for _, rtt := range []time.Duration{0, 500 * time.Microsecond} {
		for _, clients := range []int{1, 8} {
			b.Run(fmt.Sprintf("rtt=%v/clients=%d", rtt, clients), func(b *testing.B) {
				w, plain := benchWorld(b, durable, rtt)
				b.Run("plain", func(b *testing.B) {
					drive(b, clients, func(n int) (time.Duration, error) {
						began := time.Now()
						err := update(context.Background(), plain, n)
						return time.Since(began), err
					})
				})
				for _, mode := range []rm.Mode{rm.AT, rm.XA} {
					b.Run(strings.ToLower(mode.String()), func(b *testing.B) {
						ctx := rm.ContextWithMode(context.Background(), mode)
						drive(b, clients, func(n int) (time.Duration, error) { return global(ctx, w.tc, w.pool, n) })
						for w.intents()+w.prepared() > 0 {
							time.Sleep(time.Millisecond) // the settlers are at work
						}
					})
				}
			})
		}
	}
	b.Cleanup(func() { _ = durable.Server(b).Stop(context.Background()) })
}

func benchWorld(b *testing.B, c *pgtest.Cluster, rtt time.Duration) (*world, *pgxpool.Pool) {
	b.Helper()
	w := &world{t: b, dsn: c.DSN(b)}
	w.look = connect(b, w.dsn)
	check(b, undolog.Install(limited(b), w.look))
	exec(b, w.look, schema)
	exec(b, w.look, "INSERT INTO account SELECT i, 'owner ' || i, 100 FROM generate_series(101, 10000) i")
	_, err := undolog.Protect(limited(b), w.look, protected...)
	check(b, err)
	w.tc = dial(b, coordinator(b))
	dsn := w.dsn
	if rtt > 0 {
		_, dsn = through(b, w.dsn, rtt/2)
	}
	plain, err := pgxpool.New(limited(b), dsn+"&pool_max_conns=8")
	check(b, err)
	b.Cleanup(plain.Close)
	w.pool, err = rm.New(limited(b), w.tc, plain, rm.WithLogger(quiet()))
	check(b, err)
	b.Cleanup(w.pool.Close)
	return w, plain
}

// global is a whole global transaction. It gives the time of the local one.
func global(ctx context.Context, c *client.Client, p *rm.Pool, n int) (time.Duration, error) {
	a, err := c.Begin(ctx, &pb.BeginRequest{})
	if err != nil {
		return 0, err
	}
	x, err := xid.Parse(a.GetXid())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := update(xid.NewContext(ctx, x), p, n); err != nil {
		return 0, err
	}
	took := time.Since(began)
	_, err = c.Commit(ctx, &pb.CommitRequest{Xid: x.String()})
	return took, err
}

func update(ctx context.Context, p interface {
	Begin(context.Context) (pgx.Tx, error)
}, n int) error {
	tx, err := p.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // the error that led here says more
	if _, err := tx.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = $1", n); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// drive runs f b.N times on some goroutines, each time on another row.
func drive(b *testing.B, clients int, f func(n int) (time.Duration, error)) {
	b.Helper()
	var next, took atomic.Int64
	done := make(chan error, clients)
	b.ResetTimer()
	for range clients {
		go func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					done <- nil
					return
				}
				d, err := f(int(i%9000) + 1)
				if err != nil {
					done <- err
					return
				}
				took.Add(int64(d))
			}
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(took.Load())/float64(b.N)/1000, "us/tx")
}

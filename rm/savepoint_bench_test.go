package rm_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/xid"
)

// BenchmarkSavepoints is the cost of a savepoint before each statement of an
// explicit transaction: off-us and on-us are medians of the time of the local
// transaction alone. Both take turns, for the machine may be shared. The first
// statement of each has no savepoint, and a read has none.
func BenchmarkSavepoints(b *testing.B) {
	durable := pgtest.New(pgserver.Options{Durable: true})
	for _, tt := range []struct {
		what       string
		statements int
		clients    int
	}{{"update", 2, 1}, {"update", 5, 1}, {"update", 20, 1}, {"update", 100, 1}, {"read", 20, 1}, {"update", 5, 8}, {"update", 100, 8}} {
		b.Run(fmt.Sprintf("%s=%d/clients=%d", tt.what, tt.statements, tt.clients), func(b *testing.B) {
			w, plain := benchWorld(b, durable, 0)
			pools := [2]*rm.Pool{savepointPool(b, w, plain, false), w.pool}
			var mu sync.Mutex
			var took [2][]time.Duration
			drive(b, tt.clients, func(n int) (time.Duration, error) {
				d, err := several(w, pools[n%2], tt.what, n, tt.statements)
				mu.Lock()
				took[n%2] = append(took[n%2], d)
				mu.Unlock()
				return d, err
			})
			for w.intents() > 0 {
				time.Sleep(time.Millisecond) // the settlers are at work
			}
			for i, name := range []string{"off-us", "on-us"} {
				slices.Sort(took[i])
				if n := len(took[i]); n > 0 {
					b.ReportMetric(float64(took[i][n/2].Microseconds()), name)
				}
			}
		})
	}
	b.Cleanup(func() { _ = durable.Server(b).Stop(context.Background()) })
}

func savepointPool(b *testing.B, w *world, plain *pgxpool.Pool, on bool) *rm.Pool {
	b.Helper()
	p, err := rm.New(limited(b), w.tc, plain, rm.WithLogger(quiet()), rm.WithSavepoints(on))
	check(b, err)
	b.Cleanup(p.Close)
	return p
}

// several is a global transaction of one branch with several statements.
func several(w *world, p *rm.Pool, what string, n, statements int) (time.Duration, error) {
	ctx := context.Background()
	a, err := w.tc.Begin(ctx, &pb.BeginRequest{})
	if err != nil {
		return 0, err
	}
	x, err := xid.Parse(a.GetXid())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = pgx.BeginFunc(xid.NewContext(ctx, x), p, func(tx pgx.Tx) error {
		for i := range statements {
			id := (n*statements+i)%9000 + 1
			if what == "read" && i > 0 {
				var balance int
				if err := tx.QueryRow(ctx, "SELECT balance FROM account WHERE id = $1", id).Scan(&balance); err != nil {
					return err
				}
				continue
			}
			if _, err := tx.Exec(ctx, addOne, id); err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	_, err = w.tc.Commit(ctx, &pb.CommitRequest{Xid: x.String()})
	return took, err
}

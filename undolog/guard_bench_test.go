package undolog_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/undolog"
)

// BenchmarkGuard is what the guard costs a plain session: BEGIN, a one-row UPDATE
// and COMMIT, as the client sees them. The two tables take turns, transaction by
// transaction, so that what else the machine does hits both; figures are medians.
// Run it with -benchtime 20000x.
func BenchmarkGuard(b *testing.B) {
	for _, durable := range []bool{true, false} {
		c := pgtest.New(pgserver.Options{Durable: durable})
		b.Run(fmt.Sprintf("durable=%t", durable), func(b *testing.B) {
			d := &database{t: b, dsn: c.DSN(b)}
			d.own = d.connect()
			d.exec(d.own, "CREATE TABLE bare (id int PRIMARY KEY, v int); CREATE TABLE g (id int PRIMARY KEY, v int)")
			d.exec(d.own, "INSERT INTO bare SELECT i, 0 FROM generate_series(1, 10000) i; INSERT INTO g SELECT * FROM bare; ANALYZE")
			if err := undolog.Install(context.Background(), d.own); err != nil {
				b.Fatal(err)
			}
			if _, err := undolog.Protect(context.Background(), d.own, "g"); err != nil {
				b.Fatal(err)
			}
			took := map[string][]time.Duration{}
			for n := range b.N {
				for _, table := range []string{"bare", "g"} {
					begun := time.Now()
					d.flush(b, "BEGIN")
					d.flush(b, "UPDATE "+table+" SET v = v + 1 WHERE id = $1", n%10000+1)
					d.flush(b, "COMMIT")
					took[table] = append(took[table], time.Since(begun))
				}
			}
			median := func(table string) float64 {
				slices.Sort(took[table])
				return float64(took[table][len(took[table])/2].Nanoseconds()) / 1000
			}
			b.ReportMetric(median("bare"), "µs-bare")
			b.ReportMetric(median("g"), "µs-guarded")
			b.ReportMetric(median("g")/median("bare"), "ratio")
		})
		_ = c.Server(b).Stop(context.Background())
	}
}

package undolog_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// BenchmarkAborts is how many SERIALIZABLE transactions of plain sessions fail
// with 40001: eight sessions, each transaction reads one row and updates another,
// of 10,000. The two tables take turns in rounds, so that whatever else the machine
// does hits both. Run it with -benchtime 40000x.
func BenchmarkAborts(b *testing.B) {
	d := newDatabase(b, `CREATE TABLE bare (id int PRIMARY KEY, v int); CREATE TABLE g (id int PRIMARY KEY, v int);
		INSERT INTO bare SELECT i, 0 FROM generate_series(1, 10000) i; INSERT INTO g SELECT * FROM bare; ANALYZE`, "g")
	const sessions, rounds = 8, 10
	conns := make([]*pgx.Conn, sessions)
	for i := range conns {
		conns[i] = d.connect()
	}
	aborts, done := map[string]*atomic.Int64{"bare": {}, "g": {}}, 0
	b.ResetTimer()
	for range rounds {
		each := max(b.N/rounds/sessions, 1)
		done += each * sessions
		for table, failed := range aborts {
			var wg sync.WaitGroup
			for _, conn := range conns {
				wg.Go(func() {
					for range each {
						err := pgx.BeginTxFunc(context.Background(), conn, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
							return readOneWriteOne(tx, table)
						})
						if sqlState(err) == "40001" {
							failed.Add(1)
						} else if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		}
	}
	for table, failed := range aborts {
		b.ReportMetric(100*float64(failed.Load())/float64(done), fmt.Sprintf("%%-of-%s", table))
	}
}

func readOneWriteOne(tx pgx.Tx, table string) error {
	ctx := context.Background()
	var v int
	if err := tx.QueryRow(ctx, "SELECT v FROM "+table+" WHERE id = $1", rand.IntN(10000)+1).Scan(&v); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "UPDATE "+table+" SET v = v + 1 WHERE id = $1", rand.IntN(10000)+1)
	return err
}

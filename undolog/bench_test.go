package undolog_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/undolog"
)

// BenchmarkUpdate is a local transaction with one one-row UPDATE, as the client
// sees it: plain, plain with the guard, and as a branch, whose settling is not
// part of the time. Run it with -benchtime 2000x: the branches leave intents.
func BenchmarkUpdate(b *testing.B) {
	for _, durable := range []bool{true, false} {
		c := pgtest.New(pgserver.Options{Durable: durable})
		b.Run(fmt.Sprintf("durable=%t", durable), func(b *testing.B) {
			d := &database{t: b, dsn: c.DSN(b)}
			d.own = d.connect()
			d.exec(d.own, "CREATE TABLE bare (id int PRIMARY KEY, v int); CREATE TABLE g (id int PRIMARY KEY, v int)")
			d.exec(d.own, "INSERT INTO bare SELECT i, 0 FROM generate_series(1, 100000) i; INSERT INTO g SELECT * FROM bare; ANALYZE")
			ctx := context.Background()
			if err := undolog.Install(ctx, d.own); err != nil {
				b.Fatal(err)
			}
			if _, err := undolog.Protect(ctx, d.own, "g"); err != nil {
				b.Fatal(err)
			}
			n := 0
			for _, table := range []string{"bare", "g"} {
				b.Run("plain/"+table, func(b *testing.B) {
					for range b.N {
						n++
						d.flush(b, "BEGIN")
						d.flush(b, "UPDATE "+table+" SET v = v + 1 WHERE id = $1", n%100000+1)
						d.flush(b, "COMMIT")
					}
				})
			}
			b.Run("branch", func(b *testing.B) {
				var settle []undolog.Settlement
				for range b.N {
					n++
					id, branch := newXID(), newBranch()
					batch := &pgx.Batch{}
					batch.Queue("BEGIN")
					sql, args := undolog.Arm(id, branch, undolog.ArmOptions{})
					batch.Queue(sql, args...)
					batch.Queue("UPDATE g SET v = v + 1 WHERE id = $1", n%100000+1)
					if err := d.own.SendBatch(ctx, batch).Close(); err != nil {
						b.Fatal(err)
					}
					batch = &pgx.Batch{}
					sql, args = undolog.Seal(witness)
					batch.Queue(sql, args...)
					batch.Queue("COMMIT")
					if err := d.own.SendBatch(ctx, batch).Close(); err != nil {
						b.Fatal(err)
					}
					settle = append(settle, undolog.Settlement{XID: id, Commit: true, Branches: []undolog.BranchVote{{ID: branch, Yes: true}}})
				}
				b.StopTimer()
				for len(settle) > 0 {
					k := min(len(settle), 200)
					for _, r := range undolog.Settle(ctx, d.own, settle[:k], undolog.SettleOptions{}) {
						if r.Err != nil {
							b.Fatal(r.Err)
						}
					}
					settle = settle[k:]
				}
			})
		})
		_ = c.Server(b).Stop(context.Background())
	}
}

func (d *database) flush(b *testing.B, sql string, args ...any) {
	b.Helper()
	if _, err := d.own.Exec(context.Background(), sql, args...); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSettle is the settling of committed branches in batches of 100.
func BenchmarkSettle(b *testing.B) {
	d := newDatabase(b, "CREATE TABLE g (id int PRIMARY KEY, v int); INSERT INTO g SELECT i, 0 FROM generate_series(1, 100000) i", "g")
	ctx := context.Background()
	worker := d.connect()
	var all []undolog.Settlement
	for n := range b.N {
		id, branch := newXID(), newBranch()
		batch := &pgx.Batch{}
		batch.Queue("BEGIN")
		sql, args := undolog.Arm(id, branch, undolog.ArmOptions{})
		batch.Queue(sql, args...)
		batch.Queue("UPDATE g SET v = v + 1 WHERE id = $1", n%100000+1)
		sql, args = undolog.Seal(witness)
		batch.Queue(sql, args...)
		batch.Queue("COMMIT")
		if err := worker.SendBatch(ctx, batch).Close(); err != nil {
			b.Fatal(err)
		}
		all = append(all, undolog.Settlement{XID: id, Commit: true, Branches: []undolog.BranchVote{{ID: branch, Yes: true}}})
	}
	b.ResetTimer()
	for len(all) > 0 {
		k := min(len(all), 100)
		for _, r := range undolog.Settle(ctx, d.own, all[:k], undolog.SettleOptions{}) {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
		all = all[k:]
	}
}

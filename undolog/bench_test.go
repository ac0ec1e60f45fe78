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

// BenchmarkBulk is one transaction with one statement that changes many rows:
// plain, and as a branch. Rolling back is the plain way to start over; what
// settling costs is in BenchmarkSettle.
func BenchmarkBulk(b *testing.B) {
	c := pgtest.New(pgserver.Options{Durable: true})
	d := &database{t: b, dsn: c.DSN(b)}
	d.own = d.connect()
	ctx := context.Background()
	if err := undolog.Install(ctx, d.own); err != nil {
		b.Fatal(err)
	}
	const ddl = "CREATE TABLE %[1]s (id int PRIMARY KEY, a int, b text, c numeric, d timestamptz, e int, f text); INSERT INTO %[1]s SELECT g, g, 'row ' || g, g * 1.5, now(), g, md5(g::text) FROM generate_series(1, 100000) g; ANALYZE"
	d.exec(d.own, fmt.Sprintf(ddl, "bare")+";"+fmt.Sprintf(ddl, "g"))
	if _, err := undolog.Protect(ctx, d.own, "g"); err != nil {
		b.Fatal(err)
	}
	for _, rows := range []int{1, 100, 10000} {
		for _, op := range []struct{ name, sql string }{
			{"update", "UPDATE %s SET a = a + 1 WHERE id <= $1"},
			{"delete", "DELETE FROM %s WHERE id <= $1"},
			{"insert", "INSERT INTO %s SELECT g, g, 'row', g, now(), g, 'x' FROM generate_series(200001, 200000 + $1) g"},
		} {
			for _, how := range []string{"bare", "g", "branch"} {
				b.Run(fmt.Sprintf("rows=%d/%s/%s", rows, op.name, how), func(b *testing.B) {
					for range b.N {
						d.flush(b, "BEGIN")
						table := how
						if how == "branch" {
							table = "g"
							sql, args := undolog.Arm(newXID(), newBranch(), undolog.ArmOptions{})
							d.flush(b, sql, args...)
						}
						d.flush(b, fmt.Sprintf(op.sql, table), rows)
						if rows == 1 {
							d.flush(b, "ROLLBACK")
							continue
						}
						d.flush(b, "ROLLBACK")
					}
				})
			}
		}
	}
}

// BenchmarkCommittedRead is a point read by key, of a table and through its view
// of committed rows, with so many open intents of that table.
func BenchmarkCommittedRead(b *testing.B) {
	c := pgtest.New(pgserver.Options{})
	for _, intents := range []int{0, 10000} {
		d := &database{t: b, dsn: c.DSN(b)}
		d.own = d.connect()
		ctx := context.Background()
		if err := undolog.Install(ctx, d.own); err != nil {
			b.Fatal(err)
		}
		d.exec(d.own, "CREATE TABLE g (id int PRIMARY KEY, v int, w text); INSERT INTO g SELECT i, i, md5(i::text) FROM generate_series(1, 100000) i; ANALYZE")
		if _, err := undolog.ProtectTables(ctx, d.own, []string{"g"}, undolog.WithCommittedView()); err != nil {
			b.Fatal(err)
		}
		if intents > 0 {
			d.work(newXID(), fmt.Sprintf("UPDATE g SET v = 0 WHERE id <= %d", intents/2), fmt.Sprintf("DELETE FROM g WHERE id > %d", 100000-intents/2))
		}
		for _, from := range []string{"g", "g_committed"} {
			for _, where := range []string{"clean", "held"} {
				b.Run(fmt.Sprintf("intents=%d/%s/%s", intents, from, where), func(b *testing.B) {
					for i := range b.N {
						id := 20000 + i%50000
						if where == "held" {
							id = i%5000 + 1
						}
						d.flush(b, "SELECT * FROM "+from+" WHERE id = $1", id)
					}
				})
			}
		}
	}
}

package undolog_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/undolog"
)

// On a hot standby, which can write nothing at all, the view gives the committed
// rows as of what was replayed, and settled refuses undecided ones.
func TestReplicaReadsCommittedRows(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := pgtest.New(pgserver.Options{})
	primary := c.Server(t)
	defer func() { _ = primary.Stop(context.Background()) }()
	dsn, err := primary.CreateDatabase(ctx, "app")
	if err != nil {
		t.Fatal(err)
	}
	d := &database{t: t, dsn: dsn}
	d.own = d.connect()
	if err := undolog.Install(ctx, d.own); err != nil {
		t.Fatal(err)
	}
	d.exec(d.own, committedDDL)
	if _, err := undolog.ProtectTables(ctx, d.own, []string{"c"}, undolog.WithCommittedView()); err != nil {
		t.Fatal(err)
	}
	replica, err := pgserver.StartReplica(ctx, primary)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = replica.Stop(context.Background()) }()
	r := &database{t: t, dsn: replica.DSN("app")}
	r.own = r.connect()
	replayed := func() {
		t.Helper()
		lsn := d.lines("SELECT pg_current_wal_insert_lsn()::text")
		for r.lines("SELECT (pg_last_wal_replay_lsn() >= $1::pg_lsn)::text", lsn) != "true" {
			if err := ctx.Err(); err != nil {
				t.Fatal("the replica does not follow")
			}
		}
	}
	const committed, plain = "SELECT t::text FROM c_committed t ORDER BY id", "SELECT t::text FROM c t ORDER BY id"
	for _, commit := range []bool{false, true} {
		before := d.lines(plain)
		id := newXID()
		l := d.work(id, "UPDATE c SET v = v + 1000 WHERE id = 1", "UPDATE c SET email = 'x' || id WHERE id < 3",
			"INSERT INTO c (id, v) VALUES (100, 100)", "DELETE FROM c WHERE id = 7")
		replayed()
		if r.lines(plain) == before {
			t.Fatal("nothing was replicated")
		}
		if got := r.lines(committed); got != before {
			t.Errorf("undecided:\n%s", difference(got, before))
		}
		_, err := r.own.Exec(ctx, "SELECT handfast.settled(c) FROM c WHERE id = 1")
		if sqlState(err) != "HF001" {
			t.Errorf("an undecided row: %v", err)
		}
		strict := func() error {
			return pgx.BeginTxFunc(ctx, r.own, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "SELECT handfast.settled(c) FROM c WHERE id = 1")
				return err
			})
		}
		if err := strict(); sqlState(err) != "40001" {
			t.Errorf("an undecided row above READ COMMITTED: %v", err)
		}
		d.mustSettle(id, commit, l)
		replayed()
		if got, want := r.lines(committed), d.lines(plain); got != want || (want == before) == commit {
			t.Errorf("settled:\n%s", difference(got, want))
		}
		if got := r.lines("SELECT handfast.settled(c)::text FROM c WHERE id = 1"); got != "true" {
			t.Errorf("a settled row: %s", got)
		}
		if err := strict(); sqlState(err) != "25006" || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("above READ COMMITTED, where asking is writing: %v", err)
		}
		d.exec(d.own, "DELETE FROM c WHERE id = 100")
	}
}

package undolog_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

const settledDDL = `CREATE SCHEMA "Bank"; CREATE TABLE "Bank"."Order" (id int, "select" text, v int, PRIMARY KEY ("select", id));
	INSERT INTO "Bank"."Order" SELECT i, 'k', i FROM generate_series(1, 5) i;
	CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); INSERT INTO p VALUES (1, 1), (2, 2);
	CREATE TABLE bare (id int PRIMARY KEY); INSERT INTO bare VALUES (1)`

// Whoever asks for settled rows is refused undecided ones, as a writer would be.
func TestSettledRefusesUndecidedRows(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ work, ask string }{
		"updated":                {`UPDATE "Bank"."Order" SET v = 0 WHERE id = 1`, `SELECT v FROM "Bank"."Order" o WHERE id = 1 AND handfast.settled(o) FOR UPDATE`},
		"inserted":               {`INSERT INTO "Bank"."Order" VALUES (9, 'k', 9)`, `SELECT v FROM "Bank"."Order" o WHERE id = 9 AND handfast.settled(o)`},
		"deleted, asked by key":  {`DELETE FROM "Bank"."Order" WHERE id = 1`, `SELECT handfast.settled(jsonb_populate_record(NULL::"Bank"."Order", '{"id": 1, "select": "k"}'))`},
		"key moved, asked by it": {`UPDATE "Bank"."Order" SET id = 50 WHERE id = 1`, `SELECT handfast.settled(jsonb_populate_record(NULL::"Bank"."Order", '{"id": 1, "select": "k"}'))`},
		"nobody uses the answer": {`UPDATE "Bank"."Order" SET v = 0 WHERE id = 1`, `SELECT v FROM (SELECT v, handfast.settled(o) FROM "Bank"."Order" o WHERE id = 1) s`},
		"one of many":            {`UPDATE "Bank"."Order" SET v = 0 WHERE id = 3`, `SELECT count(*) FROM "Bank"."Order" o WHERE handfast.settled(o)`},
		"in a partition":         {`UPDATE p SET v = 0 WHERE id = 1`, `SELECT v FROM p WHERE id = 1 AND handfast.settled(p)`},
		"asked of the partition": {`UPDATE p SET v = 0 WHERE id = 1`, `SELECT v FROM p1 WHERE id = 1 AND handfast.settled(p1) FOR SHARE`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, settledDDL, `"Bank"."Order"`, "p")
			for _, level := range levels {
				for _, oldSnapshot := range []bool{false, true} {
					for _, armed := range []bool{false, true} {
						other := d.connect()
						if armed {
							other = d.arm(newXID(), level).conn
						} else {
							d.exec(other, "BEGIN ISOLATION LEVEL "+level)
						}
						if oldSnapshot {
							d.exec(other, `SELECT count(*) FROM "Bank"."Order"`)
						}
						id := newXID()
						l := d.work(id, tt.work)
						_, err := other.Exec(context.Background(), tt.ask)
						want := "40001"
						if level == "READ COMMITTED" {
							want = "HF001"
						}
						if (oldSnapshot || armed) && level != "READ COMMITTED" && name == "inserted" && err == nil {
							// A row that it can't see is none that it uses.
						} else if sqlState(err) != want {
							t.Errorf("%s, armed %t, old snapshot %t: %v", level, armed, oldSnapshot, err)
						}
						d.exec(other, "ROLLBACK")
						d.mustSettle(id, false, l)
						if _, err := d.own.Exec(context.Background(), tt.ask); err != nil {
							t.Errorf("settled: %v", err)
						}
						// What the transaction itself did is settled enough for it.
						id = newXID()
						l = d.arm(id, level)
						l.exec(tt.work)
						l.exec(tt.ask)
						l.exec("ROLLBACK")
					}
				}
			}
			if n := d.litter(); n != 0 {
				t.Errorf("%d rows of ours are left", n)
			}
		})
	}
}

// A row that changes while FOR UPDATE waits for it is asked for again.
func TestSettledSeesWhatWasCommittedWhileItWaited(t *testing.T) {
	t.Parallel()
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, settledDDL, `"Bank"."Order"`)
			id := newXID()
			l := d.arm(id, "READ COMMITTED")
			l.exec(`UPDATE "Bank"."Order" SET v = 100 WHERE id = 1`)
			other := d.connect()
			d.exec(other, "BEGIN ISOLATION LEVEL "+level)
			failed := make(chan error, 1)
			go func() {
				_, err := other.Exec(context.Background(), `SELECT v FROM "Bank"."Order" o WHERE id = 1 AND handfast.settled(o) FOR UPDATE`)
				failed <- err
			}()
			d.awaitLockWait(other)
			l.commit()
			err := <-failed
			want := "40001"
			if level == "READ COMMITTED" {
				want = "HF001"
			}
			if sqlState(err) != want {
				t.Errorf("%v, want %s", err, want)
			}
			d.exec(other, "ROLLBACK")
			d.mustSettle(id, true, l)
		})
	}
}

// A row that was read undecided stays refused, although it is undone by the time it is
// asked for: what was read is not what is there.
func TestSettledKnowsWhatItsSnapshotHasSeen(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, settledDDL, `"Bank"."Order"`)
	// The first condition is looked at when the statement has its snapshot.
	const ask = `SELECT v FROM "Bank"."Order" o WHERE (SELECT pg_advisory_xact_lock_shared(7)) IS NOT NULL AND id = 1 AND `
	for _, row := range []string{"o", `(SELECT x FROM "Bank"."Order" x WHERE x.id = o.id)`, "(SELECT o)"} {
		testSettledKnows(t, d, ask+"handfast.settled("+row+")")
	}
}

func testSettledKnows(t *testing.T, d *database, ask string) {
	t.Helper()
	for level, want := range map[string]string{"READ COMMITTED": "HF001", "REPEATABLE READ": "40001"} {
		id := newXID()
		l := d.work(id, `UPDATE "Bank"."Order" SET v = 100 WHERE id = 1`)
		hold, other := d.connect(), d.connect()
		d.exec(hold, "BEGIN; SELECT pg_advisory_xact_lock(7)")
		d.exec(other, "BEGIN ISOLATION LEVEL "+level)
		failed := make(chan error, 1)
		go func() {
			_, err := other.Exec(context.Background(), ask)
			failed <- err
		}()
		d.awaitLockWait(other)
		d.mustSettle(id, false, l)
		d.exec(hold, "COMMIT")
		if err := <-failed; sqlState(err) != want {
			t.Errorf("%s: %v, want %s", level, err, want)
		}
		d.exec(other, "ROLLBACK")
		d.exec(other, ask)
	}
}

// A row that was read through a parent is owned by the key of the heir that has it.
func TestSettledAsksForHeirs(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, `CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (w int, PRIMARY KEY (id)) INHERITS (a); CREATE TABLE c (PRIMARY KEY (id)) INHERITS (b);
		CREATE TABLE other (u int PRIMARY KEY); CREATE TABLE heir (n int PRIMARY KEY) INHERITS (other);
		INSERT INTO a VALUES (1, 'a'); INSERT INTO b VALUES (2, 'b'); INSERT INTO c VALUES (3, 'c'); INSERT INTO heir VALUES (7, 8)`, "a", "b", "c", "other", "heir")
	for level, want := range map[string]string{"READ COMMITTED": "HF001", "REPEATABLE READ": "40001", "SERIALIZABLE": "40001"} {
		for _, table := range []string{"b", "c"} {
			id := newXID()
			l := d.work(id, "UPDATE "+table+" SET v = 'dirty'")
			reads := []string{"SELECT v FROM a WHERE v = 'dirty' AND handfast.settled(a)", "SELECT v FROM b WHERE v = 'dirty' AND handfast.settled(b)", "SELECT handfast.settled(b::a) FROM b WHERE v = 'dirty'"}
			if level == "READ COMMITTED" {
				reads = append(reads, "SELECT handfast.settled_then(a) FROM a WHERE v = 'dirty'", "SELECT v FROM a WHERE v = 'dirty' AND handfast.settled(a) FOR UPDATE")
			}
			for _, ask := range reads {
				other := d.connect()
				d.exec(other, "BEGIN ISOLATION LEVEL "+level)
				if _, err := other.Exec(context.Background(), ask); sqlState(err) != want {
					t.Errorf("%s, %s changed, %s: %v", level, table, ask, err)
				}
			}
			d.mustSettle(id, false, l)
			for _, ask := range reads {
				d.exec(d.own, ask)
			}
		}
	}
	if _, err := d.own.Exec(context.Background(), "SELECT handfast.settled(other) FROM other"); sqlState(err) != "HF004" {
		t.Errorf("an heir with another key: %v", err)
	}
	d.exec(d.own, "SELECT handfast.settled(heir) FROM heir; SELECT handfast.settled(a) FROM a")
}

func TestSettledSaysWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, settledDDL, "p")
	for _, ask := range []string{
		"SELECT handfast.settled(bare) FROM bare", "SELECT handfast.settled(ROW(1, 2))", "SELECT handfast.settled(1)",
	} {
		_, err := d.own.Exec(context.Background(), ask)
		pg, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pg.Code != "HF004" || pg.Hint == "" {
			t.Errorf("%s: %v", ask, err)
		}
	}
	if got := d.lines("SELECT handfast.settled(p)::text FROM bare LEFT JOIN p ON p.id = 77"); got != "true" {
		t.Errorf("no row at all: %s", got)
	}
	d.exec(d.own, "DROP TABLE p") // nothing of ours depends on the row's type
}

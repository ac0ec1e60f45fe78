package undolog_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/undolog"
)

const committedDDL = `CREATE TABLE c (id int PRIMARY KEY, email text UNIQUE, v int, twice int GENERATED ALWAYS AS (v * 2) STORED, at timestamptz DEFAULT '2024-02-29');
	INSERT INTO c (id, email, v) SELECT i, 'm' || i, i FROM generate_series(1, 50) i`

func (d *database) lines(query string, args ...any) string {
	d.t.Helper()
	rows, err := d.own.Query(context.Background(), query, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

// What an undecided transaction did is not to be seen through the view, row by
// row and as a whole; what is decided is, as soon as it is settled.
func TestCommittedViewShowsNothingUndecided(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"update":                     {"UPDATE c SET v = -v, at = now() WHERE id < 10"},
		"several updates of one row": {"UPDATE c SET v = 0 WHERE id = 1", "UPDATE c SET v = 1, email = 'x' WHERE id = 1", "UPDATE c SET at = NULL WHERE id = 1"},
		"insert":                     {"INSERT INTO c (id, v) VALUES (100, 1), (101, 2)"},
		"delete":                     {"DELETE FROM c WHERE id > 45"},
		"delete and insert":          {"DELETE FROM c WHERE id = 3", "INSERT INTO c (id, v) VALUES (3, 333)"},
		"delete, insert, delete":     {"DELETE FROM c WHERE id = 3", "INSERT INTO c (id, v) VALUES (3, 333)", "DELETE FROM c WHERE id = 3"},
		"insert and delete":          {"INSERT INTO c (id, v) VALUES (100, 1)", "DELETE FROM c WHERE id = 100"},
		"update and delete":          {"UPDATE c SET v = 7, email = 'y' WHERE id = 2", "DELETE FROM c WHERE id = 2"},
		"keys that move":             {"UPDATE c SET id = id + 50", "UPDATE c SET v = 0 WHERE id = 60"},
		"keys that move by one":      {"UPDATE c SET id = -id", "UPDATE c SET id = 1 - id"},
	}
	for name, work := range tests {
		for _, commit := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/commit=%t", name, commit), func(t *testing.T) {
				t.Parallel()
				d := newDatabase(t, committedDDL)
				if _, err := undolog.ProtectTables(context.Background(), d.own, []string{"c"}, undolog.WithCommittedView()); err != nil {
					t.Fatal(err)
				}
				const all, one = "SELECT t::text FROM c_committed t ORDER BY id", "SELECT coalesce((SELECT t::text FROM c_committed t WHERE id = $1), '')"
				look := func() string {
					t.Helper()
					var b strings.Builder
					b.WriteString(d.lines(all))
					for id := -2; id < 110; id++ {
						b.WriteString(d.lines(one, id))
					}
					return b.String()
				}
				before := look()
				if now := d.lines("SELECT t::text FROM c t ORDER BY id"); d.lines(all) != now {
					t.Fatalf("without intents:\n%s\nwant:\n%s", d.lines(all), now)
				}
				id := newXID()
				l := d.work(id, work...)
				if now := look(); now != before {
					t.Fatalf("undecided:\n%s\nwant:\n%s", now, before)
				}
				d.mustSettle(id, commit, l)
				if got, want := d.lines(all), d.lines("SELECT t::text FROM c t ORDER BY id"); got != want {
					t.Fatalf("settled:\n%s\nwant:\n%s", got, want)
				}
			})
		}
	}
}

// A condition on the key has to reach the index, whatever else is undecided.
func TestCommittedViewFindsARowByItsIndex(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, committedDDL+"; INSERT INTO c (id, v) SELECT i, i FROM generate_series(51, 20000) i; ANALYZE c")
	if _, err := undolog.ProtectTables(context.Background(), d.own, []string{"c"}, undolog.WithCommittedView()); err != nil {
		t.Fatal(err)
	}
	id := newXID()
	l := d.work(id, "UPDATE c SET v = 0 WHERE id % 2 = 0")
	plan := d.lines("EXPLAIN SELECT * FROM c_committed WHERE id = 77")
	if strings.Contains(plan, "Seq Scan") {
		t.Errorf("%s", plan)
	}
	d.mustSettle(id, false, l)
}

// Two branches may capture at one place of the log, each a row of its own.
func TestBranchesMayDrawOneNumber(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, committedDDL)
	if _, err := undolog.ProtectTables(context.Background(), d.own, []string{"c"}, undolog.WithCommittedView()); err != nil {
		t.Fatal(err)
	}
	before := d.lines("SELECT t::text FROM c t ORDER BY id")
	id := newXID()
	a, b := d.work(id, "UPDATE c SET v = 100 WHERE id = 1"), d.work(id, "DELETE FROM c WHERE id = 2")
	d.exec(d.own, "UPDATE handfast.undo SET seq = 7; UPDATE handfast.gate SET seq = 7 WHERE seq > 0")
	if got := d.lines("SELECT t::text FROM c_committed t ORDER BY id"); got != before {
		t.Errorf("committed rows:\n%s", difference(got, before))
	}
	d.mustSettle(id, false, a, b)
	if got := d.lines("SELECT t::text FROM c t ORDER BY id"); got != before {
		t.Errorf("rolled back:\n%s", difference(got, before))
	}
}

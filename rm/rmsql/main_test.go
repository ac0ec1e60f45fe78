package rmsql_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/rm/rmsql"
)

var cluster = pgtest.New(pgserver.Options{Settings: map[string]string{"max_prepared_transactions": "20"}})

func TestMain(m *testing.M) {
	code := cluster.Run(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const schema = `
CREATE TABLE account (id int PRIMARY KEY, owner text NOT NULL, balance int NOT NULL);
INSERT INTO account SELECT i, 'owner ' || i, 100 FROM generate_series(1, 100) i;
CREATE TABLE entry (account int, n int, note text, PRIMARY KEY (account, n));
CREATE FUNCTION pay(i int) RETURNS int LANGUAGE sql AS 'UPDATE account SET balance = balance - 1 WHERE id = i RETURNING balance';
`

// world is a world with a *sql.DB.
type world struct {
	*hftest.World
	db *sql.DB
}

func newWorld(tb testing.TB, opts ...rm.Option) *world {
	tb.Helper()
	w := hftest.New(tb, cluster, schema, []string{"account", "entry"}, opts...)
	return &world{World: w, db: openDB(tb, w.Pool)}
}

func openDB(tb testing.TB, p *rm.Pool) *sql.DB {
	tb.Helper()
	db := rmsql.OpenDB(p)
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// contents is all data of the protected tables.
func (w *world) contents() string {
	w.TB.Helper()
	return hftest.Value[string](w.World, `SELECT coalesce(string_agg(r, E'\n' ORDER BY r), '') FROM (
		SELECT 'account ' || a::text AS r FROM account a UNION ALL SELECT 'entry ' || e::text FROM entry e) x`)
}

func (w *world) balance(id int) int {
	w.TB.Helper()
	return hftest.Value[int](w.World, "SELECT balance FROM account WHERE id = $1", id)
}

func wantError(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("got error %v, want %v", err, want)
	}
}

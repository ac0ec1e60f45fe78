package orm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/rm"
)

var cluster = pgtest.New(pgserver.Options{})

func TestMain(m *testing.M) { os.Exit(cluster.Run(m)) }

// errStop is a reason of the application to roll a local transaction back.
var errStop = errors.New("stop")

// bank is the same application written with each library.
type bank interface {
	// Transfer moves an amount and writes an entry, in a local transaction. It
	// ends with the error that last gives.
	Transfer(ctx context.Context, from, to, amount int64, last func() error) error
	// Add is a single statement.
	Add(ctx context.Context, id, amount int64) error
	// Note inserts an entry by a single statement and gives its key.
	Note(ctx context.Context, id int64, note string) (key int64, err error)
	// Balance and Notes read.
	Balance(ctx context.Context, id int64) (int64, error)
	Notes(ctx context.Context, id int64) ([]string, error)
}

func banks(t *testing.T, w *hftest.World) map[string]bank {
	t.Helper()
	all := make(map[string]bank)
	for _, add := range []func(*testing.T, *hftest.World, map[string]bank){addGORM, addSQLX, addBun, addEnt, addSQLC} {
		add(t, w, all)
	}
	return all
}

func newWorld(t *testing.T, opts ...rm.Option) *hftest.World {
	t.Helper()
	schema, err := os.ReadFile("sqlcgen/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	w := hftest.New(t, cluster, string(schema), []string{"accounts", "entries"}, opts...)
	w.Exec("INSERT INTO accounts (owner, balance) SELECT 'owner ' || g, 100 FROM generate_series(1, 9) g")
	return w
}

// contents is all data, without the keys and times that the database draws.
func contents(w *hftest.World) string {
	w.TB.Helper()
	return hftest.Value[string](w, `SELECT coalesce(string_agg(r, E'\n' ORDER BY r), '') FROM (
		SELECT 'account ' || a::text AS r FROM accounts a UNION ALL SELECT 'entry ' || account_id || note FROM entries) x`)
}

func done() error { return nil }

// work does everything in one global transaction: two branches that read what
// they wrote, one that the application rolls back, and single statements.
func work(ctx context.Context, b bank) error {
	if err := b.Transfer(ctx, 1, 2, 10, done); err != nil {
		return fmt.Errorf("transfer: %w", err)
	}
	if err := b.Transfer(ctx, 3, 4, 10, func() error { return errStop }); !errors.Is(err, errStop) {
		return fmt.Errorf("transfer that stops: %w", err)
	}
	if err := b.Add(ctx, 5, 7); err != nil {
		return fmt.Errorf("add: %w", err)
	}
	if key, err := b.Note(ctx, 1, "single"); err != nil || key == 0 {
		return fmt.Errorf("note %d: %w", key, err)
	}
	if n, err := b.Balance(ctx, 1); err != nil || n != 90 {
		return fmt.Errorf("balance %d: %w", n, err)
	}
	if notes, err := b.Notes(ctx, 1); err != nil || fmt.Sprint(notes) != "[transfer single]" {
		return fmt.Errorf("notes %v: %w", notes, err)
	}
	return nil
}

const worked = `account (1,"owner 1",90)
account (2,"owner 2",110)
account (3,"owner 3",100)
account (4,"owner 4",100)
account (5,"owner 5",107)
account (6,"owner 6",100)
account (7,"owner 7",100)
account (8,"owner 8",100)
account (9,"owner 9",100)
entry 1single
entry 1transfer`

func TestCommitAndRollback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := contents(w)
	for name, b := range banks(t, w) { //nolint:paralleltest // one database, looked at as a whole
		t.Run(name, func(t *testing.T) {
			ctx, x := w.Begin()
			w.Check(work(ctx, b))
			hftest.Equal(t, "before the decision", contents(w), worked)
			if n := w.Branches(x); n < 3 || n > 4 { // the one that stopped may have been withdrawn
				t.Errorf("%d branches", n)
			}
			w.Rollback(x)
			hftest.Equal(t, "after rollback", contents(w), before)
			w.Settled()

			ctx, x = w.Begin()
			w.Check(work(ctx, b))
			w.Commit(x)
			hftest.Equal(t, "after commit", contents(w), worked)
			w.Settled()
			reset(w)

			w.Check(work(w.Limited(), b)) // without an XID
			hftest.Equal(t, "without an XID", contents(w), worked)
			w.Settled()
			reset(w)
		})
	}
}

func reset(w *hftest.World) {
	w.TB.Helper()
	w.Exec("DELETE FROM entries")
	w.Exec("UPDATE accounts SET balance = 100")
}

func TestConflict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(50*time.Millisecond))
	before := contents(w)
	for name, b := range banks(t, w) { //nolint:paralleltest // one database, looked at as a whole
		t.Run(name, func(t *testing.T) {
			first, holder := w.Begin()
			w.Check(b.Add(first, 2, 1))

			// It is typed, and leaves nothing of what the transaction did before.
			ctx, x := w.Begin()
			err := b.Transfer(ctx, 1, 2, 10, done)
			w.Conflict(err, holder)
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "HF001" {
				t.Errorf("no Postgres error in %v", err)
			}
			w.Conflict(b.Add(ctx, 2, 5), holder)
			n, err := b.Balance(ctx, 1)
			w.Check(err)
			hftest.Equal(t, "balance", n, 100)

			// Without an XID, too.
			err = b.Transfer(w.Limited(), 1, 2, 10, done)
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "HF001" {
				t.Errorf("got %v", err)
			}
			w.Rollback(holder)
			w.Rollback(x)
			hftest.Equal(t, "contents", contents(w), before)
			w.Settled()

			// It is too late for a transaction that is decided.
			if err := b.Transfer(ctx, 1, 2, 10, done); !errors.Is(err, rm.ErrDecided) {
				t.Errorf("got %v", err)
			}
			if _, err := b.Note(ctx, 1, "late"); !errors.Is(err, rm.ErrDecided) {
				t.Errorf("got %v", err)
			}
			hftest.Equal(t, "contents", contents(w), before)
		})
	}
}

func TestASingleStatementWaitsForTheHolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, b := range banks(t, w) { //nolint:paralleltest // they share the row
		t.Run(name, func(t *testing.T) {
			first, holder := w.Begin()
			w.Check(b.Add(first, 2, 1))
			ctx, x := w.Begin()
			came := make(chan error, 1)
			go func() { came <- b.Add(ctx, 2, 5) }()
			// Its branch is registered, so it has met the row or is about to.
			for w.Branches(x) == 0 {
				select {
				case err := <-came:
					t.Fatalf("it did not wait: %v", err)
				default:
				}
			}
			w.Rollback(holder)
			w.Check(<-came)
			w.Commit(x)
			n, err := b.Balance(w.Limited(), 2)
			w.Check(err)
			hftest.Equal(t, "balance", n, 105)
			reset(w)
		})
	}
}

package rm_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
)

// queryValue escapes as pgx wants it, which takes a plus as one.
func queryValue(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// ways are where a user may set statement_timeout and lock_timeout.
func ways() map[string]func(w *world, setting, value string) (p *rm.Pool, local string) {
	return map[string]func(w *world, setting, value string) (*rm.Pool, string){
		"role": func(w *world, setting, value string) (*rm.Pool, string) {
			role := fmt.Sprintf("%s_%s", setting, value)
			exec(w.t, w.look, fmt.Sprintf("DROP ROLE IF EXISTS %s; CREATE ROLE %[1]s SUPERUSER LOGIN; ALTER ROLE %[1]s SET %s = %s", role, setting, value))
			w.t.Cleanup(func() { exec(w.t, connect(w.t, w.dsn), "DROP ROLE "+role) })
			u, err := url.Parse(w.dsn)
			check(w.t, err)
			u.User = url.User(role)
			return w.openHasty(u.String()), ""
		},
		"database": func(w *world, setting, value string) (*rm.Pool, string) {
			exec(w.t, w.look, fmt.Sprintf("ALTER DATABASE %s SET %s = %s", w.look.Config().Database, setting, value))
			return w.openHasty(w.dsn), ""
		},
		"parameter": func(w *world, setting, value string) (*rm.Pool, string) {
			return w.openHasty(w.dsn + "&" + setting + "=" + value), ""
		},
		"options": func(w *world, setting, value string) (*rm.Pool, string) {
			return w.openHasty(w.dsn + "&options=" + queryValue("-c "+setting+"="+value)), ""
		},
		"local": func(w *world, setting, value string) (*rm.Pool, string) {
			return open(w.t, w.tc, w.dsn), fmt.Sprintf("SET LOCAL %s = %s", setting, value)
		},
	}
}

// openHasty opens a pool whose statements may take that little time that a busy machine
// outlasts it when it only looks around.
func (w *world) openHasty(dsn string) *rm.Pool {
	w.t.Helper()
	for {
		p, err := rm.Open(limited(w.t), w.tc, dsn, rm.WithLogger(quiet()))
		if hasState(err, "57014") {
			continue
		}
		check(w.t, err)
		w.t.Cleanup(p.Close)
		return p
	}
}

// TestTimeoutsOfTheUser: they end a statement with their own error, and leave
// nothing half done.
func TestTimeoutsOfTheUser(t *testing.T) {
	t.Parallel()
	for setting, c := range map[string]struct{ statement, state string }{
		"statement_timeout": {"WITH u AS (UPDATE account SET balance = 0 WHERE id = 2 RETURNING id) SELECT pg_sleep(100), id FROM u", "57014"},
		"lock_timeout":      {"UPDATE account SET balance = 0 WHERE id < 90", "55P03"},
	} {
		for name, way := range ways() {
			t.Run(setting+"/"+name, func(t *testing.T) {
				t.Parallel()
				w := &world{t: t, dsn: database(t)}
				w.tc = dial(t, coordinator(t))
				w.look = connect(t, w.dsn)
				pool, local := way(w, setting, "200")
				before := w.contents()
				locker := connect(t, w.dsn)
				exec(t, locker, "BEGIN; SELECT * FROM account WHERE id = 50 FOR UPDATE")

				ctx, x := w.begin()
				fails := func(err error) {
					t.Helper()
					var pg *pgconn.PgError
					if !errors.As(err, &pg) || pg.Code != c.state {
						t.Errorf("got %v, want SQLSTATE %s", err, c.state)
					}
				}
				for _, first := range []string{"", "UPDATE account SET balance = 1 WHERE id = 1"} {
					fails(pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
						for _, s := range []string{local, first, c.statement} {
							if s == "" {
								continue
							}
							if _, err := tx.Exec(ctx, s); err != nil {
								return err
							}
						}
						return nil
					}))
				}
				if local == "" {
					_, err := pool.Exec(ctx, c.statement)
					fails(err)
				}
				exec(t, locker, "ROLLBACK")
				equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
				equal(t, "contents", w.contents(), before)
				equal(t, "intents", w.intents(), 0)
			})
		}
	}
}

// hostile settings would each break settling, which has to work whatever the
// application's connections are told.
var hostile = map[string]string{
	"statement_timeout": "20", "lock_timeout": "1", "idle_in_transaction_session_timeout": "20",
	"default_transaction_isolation": "serializable", "default_transaction_read_only": "on", "default_transaction_deferrable": "on",
}

func TestSettlingIsNotDisturbedBySettings(t *testing.T) {
	t.Parallel()
	bulk := "INSERT INTO entry SELECT 1, g, repeat('x', 100) FROM generate_series(1, 5000) g"
	settle := func(t *testing.T, w *world, pool *rm.Pool, prepare func()) {
		t.Helper()
		first, kept := w.begin()
		_, err := pool.Exec(first, "UPDATE account SET balance = 7 WHERE id = 1")
		check(t, err)
		second, x := w.begin()
		_, err = pool.Exec(second, bulk)
		check(t, err)
		prepare()
		w.rollback(x)
		equal(t, "outcome", w.commit(kept), pb.Outcome_OUTCOME_COMMITTED)
		equal(t, "entries", value[int](w, "SELECT count(*) FROM entry"), 0)
		equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 7)
		equal(t, "intents", w.intents(), 0)
	}
	build := func(t *testing.T) *world {
		t.Helper()
		w := &world{t: t, dsn: database(t)}
		w.tc = dial(t, coordinator(t))
		w.look = connect(t, w.dsn)
		return w
	}
	t.Run("database", func(t *testing.T) {
		t.Parallel()
		w := build(t)
		settle(t, w, open(t, w.tc, w.dsn), func() {
			for k, v := range hostile {
				exec(t, w.look, fmt.Sprintf("ALTER DATABASE %s SET %s = %s", w.look.Config().Database, k, v))
			}
		})
	})
	t.Run("options", func(t *testing.T) {
		t.Parallel()
		w := build(t)
		text := ""
		for k, v := range hostile {
			text += " -c " + k + "=" + v
		}
		cfg, err := pgxpool.ParseConfig(w.dsn + "&options=" + queryValue(text))
		check(t, err)
		cfg.AfterConnect = func(ctx context.Context, c *pgx.Conn) error { // the application's statements pass
			for {
				_, err := c.Exec(ctx, `SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
					SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'`)
				if !hasState(err, "57014") { // a busy machine takes 20 ms for that
					return err
				}
			}
		}
		plain, err := pgxpool.NewWithConfig(limited(t), cfg)
		check(t, err)
		t.Cleanup(plain.Close)
		pool, err := rm.New(limited(t), w.tc, plain, rm.WithLogger(quiet()))
		check(t, err)
		t.Cleanup(pool.Close)
		settle(t, w, pool, func() {})
	})
}

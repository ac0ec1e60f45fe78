package cli

import (
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/client"
	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// scene is a coordinator, a database and a service on both.
type scene struct {
	t      *testing.T
	env    []string
	client *client.Client
	dsn    string
	pool   *rm.Pool
	conn   *pgx.Conn
}

func newScene(t *testing.T) *scene {
	t.Helper()
	d := startDev(t)
	c, err := client.Dial(d.addr, client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &scene{t: t, env: []string{"HANDFAST_SERVER=" + d.addr}, client: c}
	w.database()
	return w
}

// database makes one more database, with a service that serves it from now on.
func (w *scene) database() {
	w.t.Helper()
	env, conn := newDatabase(w.t)
	w.conn, w.dsn = conn, strings.TrimPrefix(env[0], "DATABASE_URL=")
	ctx := w.t.Context()
	err := undolog.Install(ctx, conn)
	if err == nil {
		_, err = conn.Exec(ctx, `CREATE TABLE stock (item text, place int, n int, note text, PRIMARY KEY (item, place));
			INSERT INTO stock SELECT 'bolt', i, 10 * i, 'as ever' FROM generate_series(1, 9) i`)
	}
	if err == nil {
		_, err = undolog.Protect(ctx, conn, "stock")
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.pool = w.open()
}

func (w *scene) open() *rm.Pool {
	w.t.Helper()
	p, err := rm.Open(w.t.Context(), w.client, w.dsn, rm.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	return p
}

func (w *scene) begin() (context.Context, string) {
	w.t.Helper()
	a, err := w.client.Begin(w.t.Context(), &handfastv1.BeginRequest{Name: w.t.Name()})
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := xid.Parse(a.GetXid())
	if err != nil {
		w.t.Fatal(err)
	}
	return xid.NewContext(w.t.Context(), id), a.GetXid()
}

func (w *scene) exec(ctx context.Context, sql string) {
	w.t.Helper()
	if _, err := w.pool.Exec(ctx, sql); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// behind runs something that no trigger sees: event triggers would put the others
// back at once.
func (w *scene) behind(sql string) {
	w.t.Helper()
	if _, err := w.conn.Exec(w.t.Context(), "ALTER EVENT TRIGGER handfast_ddl DISABLE; ALTER TABLE stock DISABLE TRIGGER ALL; "+sql+
		"; ALTER TABLE stock ENABLE TRIGGER ALL; ALTER EVENT TRIGGER handfast_ddl ENABLE; SELECT handfast.always(id) FROM handfast.protected"); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// run runs a command and wants its exit code, and all of want in what it says.
func (w *scene) run(code int, want []string, args ...string) string {
	w.t.Helper()
	got, out, errOut := run(w.t, w.env, args...)
	if got != code {
		w.t.Fatalf("%v: exit code %d, want %d\n%s%s", args, got, code, out, errOut)
	}
	for _, s := range want {
		if !strings.Contains(out+errOut, s) {
			w.t.Fatalf("%v does not say %q:\n%s%s", args, s, out, errOut)
		}
	}
	return out
}

// await runs tx show until it says something.
func (w *scene) await(id, want string) string {
	w.t.Helper()
	var out string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if out = w.run(ExitOK, nil, "tx", "show", id); strings.Contains(out, want) {
			return out
		}
	}
	w.t.Fatalf("tx show never said %q:\n%s", want, out)
	return ""
}

// awaitDetached waits until the coordinator has heard that nobody serves a database any more.
func (w *scene) awaitDetached(resource string) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); strings.Contains(w.run(ExitOK, nil, "status", "--json"), resource); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is still served", resource)
		}
	}
}

func (w *scene) rows() string {
	w.t.Helper()
	var s string
	if err := w.conn.QueryRow(w.t.Context(), "SELECT coalesce(string_agg(concat_ws(' ', place, n, note), ', ' ORDER BY place), '') FROM stock WHERE place IN (1, 2, 3, 20)").Scan(&s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func TestContradictionIsShownChosenForAndRolledBack(t *testing.T) {
	t.Parallel()
	w := newScene(t)
	ctx, id := w.begin()
	w.exec(ctx, "UPDATE stock SET n = 0 WHERE place < 4")
	w.exec(ctx, "INSERT INTO stock VALUES ('nut', 20, 1, NULL)")
	w.exec(ctx, "DELETE FROM stock WHERE place = 9")
	w.run(ExitOK, []string{"would restore 5 rows", "set it back", "delete it", "put it back", "item=bolt, place=9", "(no row)", "NULL"},
		"tx", "rollback", id, "--dry-run")
	w.behind("UPDATE stock SET n = 77 WHERE place IN (1, 2); UPDATE stock SET note = 'mine' WHERE place = 20")
	w.run(ExitOK, []string{"would restore nothing, and stop at 3 of 5 rows", "stop at 3", "stop: not what"}, "tx", "rollback", id, "--dry-run")
	w.run(ExitFailure, []string{"not decided", "WRONG_STATE"}, "tx", "resolve", id, "--all", "--keep")

	w.run(ExitOK, nil, "tx", "rollback", id)
	out := w.await(id, "3 of them without a choice")
	for _, want := range []string{"3 of 5 rows", "is not what global transaction", "public.stock", "item=bolt, place=1", "10", "77", "mine", "handfast tx resolve " + id} {
		if !strings.Contains(out, want) {
			t.Errorf("does not show %q:\n%s", want, out)
		}
	}
	if got := w.rows(); got != "1 77 as ever, 2 77 as ever, 3 0 as ever, 20 1 mine" {
		t.Fatalf("something was overwritten: %s", got)
	}
	if !json.Valid([]byte(w.run(ExitOK, []string{`"contradictions": "3"`, `"attention": true`, `"text": "77"`}, "tx", "show", id, "--json"))) {
		t.Error("not JSON")
	}
	row := []string{"tx", "resolve", id, "--table", "stock", "--operator", "ann", "--key", "bolt", "--key"}
	one := func(more ...string) []string { return append(append([]string{}, row...), more...) }
	w.run(ExitFailure, []string{"no row", "UNKNOWN_ROW"}, one("8", "--keep")...)
	w.run(ExitFailure, []string{"choose.values", "no column x"}, one("1", "--edit", "x=1")...)
	w.run(ExitFailure, []string{"choose.values", "many"}, one("1", "--edit", "n=many")...)
	w.run(ExitFailure, []string{"choose.key", "2 values (item, place)"}, "tx", "resolve", id, "--table", "stock", "--key", "1", "--keep")
	w.run(ExitFailure, []string{"looked at", "ROW_CHANGED"}, one("1", "--keep", "--seen", "abc")...)
	w.run(ExitFailure, []string{"no table bin", "UNKNOWN_ROW"}, "tx", "resolve", id, "--table", "bin", "--key", "1", "--keep")

	seen := regexp.MustCompile(`place=1 +(\w{12})`).FindStringSubmatch(out)[1]
	w.run(ExitOK, []string{"edit chosen for 1 rows", "n=5", "by ann", "miscounted", "2 rows are still without"}, one("1", "--edit", "n=5", "--seen", seen, "--why", "miscounted")...)
	w.run(ExitOK, []string{"1 rows are still without"}, one("2", "--keep")...)
	w.behind("UPDATE stock SET n = 78 WHERE place = 2")
	w.run(ExitOK, []string{"VOID, the row changed since: keep, by ann", "2 of them without"}, "tx", "show", id)
	w.run(ExitOK, []string{"restore chosen for 2 rows", "tried again now"}, "tx", "resolve", id, "--all", "--restore", "--operator", "bob")
	w.await(id, "finished")
	if got := w.rows(); got != "1 5 as ever, 2 20 as ever, 3 30 as ever" {
		t.Fatalf("after the rollback: %s", got)
	}
	w.run(ExitFailure, []string{"settled everywhere", "WRONG_STATE"}, "tx", "resolve", id, "--all", "--restore")
	w.run(ExitOK, []string{"nothing is left"}, "tx", "rollback", id, "--dry-run")
	var record string
	if err := w.conn.QueryRow(t.Context(), `SELECT string_agg(concat_ws(' ', key[2], choice, who, why, done IS NOT NULL), ', ' ORDER BY id) FROM handfast.resolution`).Scan(&record); err != nil {
		t.Fatal(err)
	}
	if want := "1 edit ann miscounted t, 2 keep ann  f, 2 restore bob  t, 20 restore bob  t"; record != want {
		t.Errorf("on record: %s", record)
	}
}

func TestResolveWithoutAServiceNamesTheDatabase(t *testing.T) {
	t.Parallel()
	w := newScene(t)
	ctx, id := w.begin()
	w.exec(ctx, "UPDATE stock SET n = 0 WHERE place = 1")
	w.behind("UPDATE stock SET n = 77 WHERE place = 1")
	w.run(ExitOK, nil, "tx", "rollback", id)
	w.await(id, "1 of them without a choice")
	resource := w.pool.Resource().String()
	w.pool.Close()
	w.awaitDetached(resource)
	w.run(ExitFailure, []string{"nobody can look into resource " + resource, "NOT_ATTACHED"}, "tx", "resolve", id, "--all", "--keep")
	w.run(ExitOK, []string{"can't be shown", "no service is attached"}, "tx", "show", id)
	w.run(ExitFailure, []string{"not all databases", resource}, "tx", "rollback", id, "--dry-run")
	w.open()
	w.await(id, "1 of them without a choice")
	w.run(ExitOK, []string{"tried again now"}, "tx", "resolve", id, "--all", "--keep")
	w.await(id, "finished")
	if got := w.rows(); got != "1 77 as ever, 2 20 as ever, 3 30 as ever" {
		t.Error(got)
	}
}

func TestResolveAsksWhichOfSeveralDatabases(t *testing.T) {
	t.Parallel()
	w := newScene(t)
	ctx, id := w.begin()
	var resources []string
	for i := range 2 {
		if i > 0 {
			w.database()
		}
		w.exec(ctx, "UPDATE stock SET n = 0 WHERE place = 1")
		w.behind("UPDATE stock SET n = 77 WHERE place = 1")
		resources = append(resources, w.pool.Resource().String())
	}
	w.run(ExitOK, nil, "tx", "rollback", id)
	for _, r := range resources {
		w.await(id, "In "+r+" 1 of 1 rows")
	}
	w.run(ExitFailure, append(resources, "resource_id"), "tx", "resolve", id, "--all", "--keep")
	for _, r := range resources {
		w.run(ExitOK, []string{"keep chosen for 1 rows", "tried again now"}, "tx", "resolve", id, "--all", "--keep", "--resource", r)
	}
	w.await(id, "finished")
}

// What was chosen is in the database: whoever settles next carries it out.
func TestChoiceOutlivesTheServiceThatRecordedIt(t *testing.T) {
	t.Parallel()
	w := newScene(t)
	ctx, id := w.begin()
	w.exec(ctx, "UPDATE stock SET n = 0 WHERE place < 3")
	w.behind("UPDATE stock SET n = 77 WHERE place < 3")
	w.run(ExitOK, nil, "tx", "rollback", id)
	w.await(id, "2 of them without a choice")
	w.run(ExitOK, []string{"1 rows are still"}, "tx", "resolve", id, "--table", "stock", "--key", "bolt", "--key", "1", "--keep")
	w.pool.Close()
	// Every connection of the service to the database is cut.
	if _, err := w.conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.await(id, "1 of them without a choice")
	w.run(ExitOK, []string{"restore chosen for 1 rows"}, "tx", "resolve", id, "--all", "--restore")
	w.await(id, "finished")
	if got := w.rows(); got != "1 77 as ever, 2 20 as ever, 3 30 as ever" {
		t.Error(got)
	}
}

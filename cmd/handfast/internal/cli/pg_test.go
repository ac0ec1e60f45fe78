package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

var cluster = pgtest.New(pgserver.Options{Settings: map[string]string{"max_prepared_transactions": "10"}})

// newDatabase gives the environment that points at an empty database.
func newDatabase(t *testing.T, statements ...string) (env []string, conn *pgx.Conn) {
	t.Helper()
	return newDatabaseOn(t, cluster, statements...)
}

func newDatabaseOn(t *testing.T, c *pgtest.Cluster, statements ...string) (env []string, conn *pgx.Conn) {
	t.Helper()
	dsn := c.DSN(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"DATABASE_URL=" + dsn}, conn
}

func TestInstallAndProtectCanBeRepeated(t *testing.T) {
	t.Parallel()
	env, _ := newDatabase(t, "create table stock (item text, place int, n int, primary key (item, place))")
	for range 2 {
		if code, out, errOut := run(t, env, "pg", "install"); code != ExitOK || !strings.Contains(out, "the resource is") {
			t.Fatalf("install: %d, %s%s", code, out, errOut)
		}
		if code, out, errOut := run(t, env, "pg", "protect", "public.stock"); code != ExitOK || !strings.Contains(out, "item, place") {
			t.Fatalf("protect: %d, %s%s", code, out, errOut)
		}
	}
	if code, out, errOut := run(t, env, "pg", "install", "--grant", "pg_monitor"); code != ExitOK {
		t.Errorf("install --grant: %d, %s%s", code, out, errOut)
	}
	if code, out, errOut := run(t, env, "pg", "gc"); code != ExitOK || !strings.Contains(out, "0 fence rows") {
		t.Errorf("gc: %d, %s%s", code, out, errOut)
	}
	if code, out, errOut := run(t, env, "pg", "unprotect", "stock"); code != ExitOK {
		t.Errorf("unprotect: %d, %s%s", code, out, errOut)
	}
}

func TestPrintChangesNothing(t *testing.T) {
	t.Parallel()
	env, conn := newDatabase(t, "create table stock (item text primary key)")
	code, out, _ := run(t, nil, "pg", "install", "--print")
	if code != ExitOK || !strings.Contains(strings.ToLower(out), "create schema") {
		t.Errorf("install --print: %d, %.200s", code, out)
	}
	if _, err := conn.Exec(t.Context(), out); err != nil {
		t.Errorf("what install --print prints cannot be run: %v", err)
	}
	triggers := func() (n int) {
		if err := conn.QueryRow(t.Context(), "select count(*) from pg_trigger where tgrelid = 'stock'::regclass").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := triggers()
	code, out, errOut := run(t, env, "pg", "protect", "--print", "stock")
	if code != ExitOK || !strings.Contains(strings.ToLower(out), "trigger") {
		t.Errorf("protect --print: %d, %.200s%s", code, out, errOut)
	}
	if after := triggers(); after != before {
		t.Errorf("protect --print changed %d triggers into %d", before, after)
	}
}

func TestPendingShowsAnOpenTransaction(t *testing.T) {
	t.Parallel()
	env, conn := newDatabase(t, "create table stock (item text primary key, n int)", "insert into stock values ('a', 1)")
	for _, a := range [][]string{{"pg", "install"}, {"pg", "protect", "stock"}} {
		if code, _, errOut := run(t, env, a...); code != ExitOK {
			t.Fatal(errOut)
		}
	}
	if code, out, _ := run(t, env, "pg", "pending"); code != ExitOK || !strings.Contains(out, "nothing is pending") {
		t.Errorf("%d, %s", code, out)
	}
	id, branch := xid.New(xid.Parts{Begin: time.Now(), Incarnation: 1, Store: xid.StoreID{1}, Counter: 1}), xid.BranchID{7}
	err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		arm, args := undolog.Arm(id, branch, undolog.ArmOptions{})
		if _, err := tx.Exec(t.Context(), arm, args...); err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), "update stock set n = 2"); err != nil {
			return err
		}
		seal, args := undolog.Seal(undolog.Witness{Store: xid.StoreID{1}, Incarnation: 1, Position: 1})
		_, err := tx.Exec(t.Context(), seal, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	code, out, errOut := run(t, env, "pg", "pending")
	if code != ExitOK || !strings.Contains(out, id.String()) || !strings.Contains(out, "stock") {
		t.Errorf("%d, %s%s", code, out, errOut)
	}
	code, out, _ = run(t, env, "pg", "pending", "--json")
	var got struct{ Pending []pendingRow }
	if err := json.Unmarshal([]byte(out), &got); code != ExitOK || err != nil || len(got.Pending) != 1 {
		t.Fatalf("%d, %v: %s", code, err, out)
	}
	if p := got.Pending[0]; p.XID != id.String() || p.Rows != 1 || len(p.Branches) != 1 || p.Branches[0] != branch.String() || len(p.Tables) != 1 {
		t.Errorf("got %+v", p)
	}
	if _, out, _ := run(t, env, "pg", "pending", "--older-than", "1h", "--json"); !strings.Contains(out, `"pending": []`) {
		t.Errorf("older than an hour: %s", out)
	}
	// What is undecided must stay protected.
	if code, _, errOut := run(t, env, "pg", "unprotect", "stock"); code != ExitFailure || !strings.Contains(errOut, "stock") {
		t.Errorf("unprotect: %d, %q", code, errOut)
	}
}

// Errors give exit code 1, warnings alone do not, and what a finding says to do
// can be run.
func TestDoctorAnswersInBothForms(t *testing.T) {
	t.Parallel()
	durable := pgtest.New(pgserver.Options{Durable: true})
	t.Cleanup(func() { _ = durable.Server(t).Stop(context.Background()) })
	env, conn := newDatabaseOn(t, durable, `create table "Stock" (item text primary key)`)
	both := func(code int, want ...string) (found []undolog.Finding) {
		t.Helper()
		got, text, errOut := run(t, env, "pg", "doctor")
		for _, w := range want {
			if got != code || !strings.Contains(text, w) {
				t.Errorf("%d, %s%s; want %d and %q", got, text, errOut, code, w)
			}
		}
		got, out, errOut := run(t, env, "pg", "doctor", "--json")
		var j struct{ Findings []undolog.Finding }
		if err := json.Unmarshal([]byte(out), &j); err != nil || got != code {
			t.Fatalf("%d, %v: %s%s", got, err, out, errOut)
		}
		for _, f := range j.Findings {
			if f.Check == "" || !strings.Contains(text, string(f.Severity)+": "+f.Object+": "+f.Problem+"\n    "+f.Fix+"\n") {
				t.Errorf("%+v is not in\n%s", f, text)
			}
		}
		return j.Findings
	}
	if code, _, errOut := run(t, env, "pg", "doctor"); code != ExitFailure || !strings.Contains(errOut, "handfast pg install") {
		t.Errorf("without the schema: %d, %s", code, errOut)
	}
	if code, _, errOut := run(t, env, "pg", "install"); code != ExitOK {
		t.Fatal(errOut)
	}
	if found := both(ExitOK, "warning: ", `handfast pg protect 'public."Stock"'`); len(found) != 1 {
		t.Errorf("%+v", found)
	}
	if code, out, errOut := run(t, env, "pg", "protect", `public."Stock"`); code != ExitOK {
		t.Fatal(out, errOut)
	}
	if found := both(ExitOK, "healthy\n"); len(found) != 0 {
		t.Errorf("%+v", found)
	}
	if _, err := conn.Exec(t.Context(), `alter event trigger handfast_ddl disable; alter table "Stock" disable trigger all; alter event trigger handfast_ddl enable`); err != nil {
		t.Fatal(err)
	}
	found := both(ExitFailure, "error: ")
	if len(found) != 1 {
		t.Fatalf("%+v", found)
	}
	if _, err := conn.Exec(t.Context(), found[0].Fix); err != nil {
		t.Fatal(err)
	}
	both(ExitOK, "healthy\n")
}

func TestProtectTakesTablesSchemasAndPatterns(t *testing.T) {
	t.Parallel()
	env, conn := newDatabase(t, "create schema shop; create table shop.item (id int primary key); create table shop.line (id int primary key); create table log (n int); create table stock (id int primary key)")
	if code, _, errOut := run(t, env, "pg", "install"); code != ExitOK {
		t.Fatal(errOut)
	}
	protected := func() (names string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "select coalesce(string_agg(concat_ws(' ', rel, enforce), ', ' order by rel::text), '') from handfast.protected").Scan(&names); err != nil {
			t.Fatal(err)
		}
		return names
	}
	for _, c := range []struct{ args, want string }{
		{"protect shop", "shop.item t, shop.line t"},
		{"protect stock --guard off --committed-view", "shop.item t, shop.line t, stock f"},
		{"unprotect shop.l*", "shop.item t, stock f"},
		{"protect *.* --guard enforce", "shop.item t, shop.line t, stock t"},
		{"unprotect shop public", ""},
	} {
		if code, out, errOut := run(t, env, append([]string{"pg"}, strings.Fields(c.args)...)...); code != ExitOK || protected() != c.want {
			t.Errorf("%s: %d, %s%s; protected are %q, want %q", c.args, code, out, errOut, protected(), c.want)
		}
	}
	_, sql, _ := run(t, env, "pg", "protect", "--print", "shop", "stock")
	if got := protected(); got != "" {
		t.Errorf("printing protected %s", got)
	}
	if _, err := conn.Exec(t.Context(), sql); err != nil || protected() != "shop.item t, shop.line t, stock t" {
		t.Errorf("what was printed: %v, protected are %q", err, protected())
	}
}

func TestDatabaseCommandsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	env, _ := newDatabase(t, "create table keyless (n int)")
	ready, _ := newDatabase(t, "create table keyless (n int)", "create view seen as table keyless")
	if code, _, errOut := run(t, ready, "pg", "install"); code != ExitOK {
		t.Fatal(errOut)
	}
	for name, tc := range map[string]struct {
		env  []string
		args []string
		code int
		want string
	}{
		"no DSN":               {nil, []string{"doctor"}, ExitUsage, "--dsn"},
		"malformed DSN":        {nil, []string{"doctor", "--dsn", "postgres://u:secret@host:port/db"}, ExitUsage, "--dsn"},
		"malformed variable":   {[]string{"DATABASE_URL=postgres://host:port/db"}, []string{"doctor"}, ExitUsage, "DATABASE_URL"},
		"nobody answers":       {nil, []string{"doctor", "--dsn", "postgres://u:secret@127.0.0.1:1/db"}, ExitFailure, "--dsn"},
		"bad timeout":          {env, []string{"doctor", "--timeout", "x"}, ExitUsage, "--timeout"},
		"limit of zero":        {env, []string{"gc", "--limit", "0"}, ExitUsage, "--limit"},
		"gc before":            {env, []string{"gc"}, ExitFailure, "handfast pg install"},
		"bad age":              {env, []string{"pending", "--older-than", "x"}, ExitUsage, "--older-than"},
		"no table":             {env, []string{"unprotect"}, ExitUsage, "public.stock"},
		"renewing before":      {env, []string{"protect"}, ExitFailure, "handfast pg install"},
		"bad guard":            {ready, []string{"protect", "--guard", "no", "keyless"}, ExitUsage, "--guard"},
		"empty table":          {env, []string{"protect", ""}, ExitUsage, "argument 1"},
		"no role":              {env, []string{"install", "--grant", "a,,b"}, ExitUsage, "--grant"},
		"pending before":       {env, []string{"pending"}, ExitFailure, "handfast pg install"},
		"protect before":       {env, []string{"protect", "keyless"}, ExitFailure, "handfast pg install"},
		"table is not there":   {ready, []string{"protect", "nowhere"}, ExitFailure, "nowhere"},
		"table without key":    {ready, []string{"protect", "keyless"}, ExitFailure, "key"},
		"a view":               {ready, []string{"protect", "seen"}, ExitFailure, "public.seen is a view"},
		"empty pattern":        {ready, []string{"protect", "public.nowhere*"}, ExitFailure, `"public.nowhere*" stands for no table`},
		"keyless pattern":      {ready, []string{"protect", "key*"}, ExitFailure, `none of the 1 tables that "key*" stands for has a primary key`},
		"keyless schema":       {ready, []string{"protect", "public"}, ExitFailure, "primary key"},
		"print of no table":    {ready, []string{"protect", "--print", "nowhere"}, ExitFailure, "nowhere"},
		"role is not there":    {ready, []string{"install", "--grant", "nobody_of_this_name"}, ExitFailure, "nobody_of_this_name"},
		"unprotect of nothing": {ready, []string{"unprotect", "nowhere"}, ExitFailure, "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, errOut := run(t, tc.env, append([]string{"pg"}, tc.args...)...)
			if code != tc.code || out != "" || !strings.Contains(errOut, tc.want) {
				t.Errorf("%d, %q, %q; want %d and %q", code, out, errOut, tc.code, tc.want)
			}
			if strings.Contains(errOut, "secret") {
				t.Errorf("the password is shown: %q", errOut)
			}
		})
	}
}

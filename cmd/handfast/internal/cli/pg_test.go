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
	dsn := cluster.DSN(t)
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

func TestDoctorAnswersInBothForms(t *testing.T) {
	t.Parallel()
	env, _ := newDatabase(t, "create table stock (item text primary key)")
	if code, _, errOut := run(t, env, "pg", "install"); code != ExitOK {
		t.Fatal(errOut)
	}
	code, out, errOut := run(t, env, "pg", "doctor", "--json")
	var got struct{ Findings []undolog.Finding }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%d, %v: %s%s", code, err, out, errOut)
	}
	bad := false
	for _, f := range got.Findings {
		bad = bad || f.Severity == undolog.SeverityError
	}
	if (code == ExitFailure) != bad {
		t.Errorf("exit code %d with %+v", code, got.Findings)
	}
	if again, out, _ := run(t, env, "pg", "doctor"); again != code || out == "" {
		t.Errorf("as text: %d, %q", again, out)
	}
}

func TestDatabaseCommandsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	env, _ := newDatabase(t, "create table keyless (n int)")
	ready, _ := newDatabase(t, "create table keyless (n int)")
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
		"no table":             {env, []string{"protect"}, ExitUsage, "public.stock"},
		"empty table":          {env, []string{"protect", ""}, ExitUsage, "argument 1"},
		"no role":              {env, []string{"install", "--grant", "a,,b"}, ExitUsage, "--grant"},
		"pending before":       {env, []string{"pending"}, ExitFailure, "handfast pg install"},
		"protect before":       {env, []string{"protect", "keyless"}, ExitFailure, "handfast pg install"},
		"table is not there":   {ready, []string{"protect", "nowhere"}, ExitFailure, "nowhere"},
		"table without key":    {ready, []string{"protect", "keyless"}, ExitFailure, "key"},
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

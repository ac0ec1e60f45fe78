package undolog_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/handfast/handfast/undolog"
)

// catalog is what a dump would show of all tables: columns, triggers, indexes,
// constraints, views, and our functions and registrations.
const catalog = `SELECT r FROM (
	SELECT concat_ws(' ', 'relation', c.oid::regclass, c.relkind, c.relpersistence, c.reloptions) AS r FROM pg_class c WHERE c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace)
	UNION ALL SELECT concat_ws(' ', 'trigger', t.tgrelid::regclass, t.tgenabled, regexp_replace(pg_get_triggerdef(t.oid), '_[0-9]+\(\)', '_N()')) FROM pg_trigger t WHERE NOT t.tgisinternal
	UNION ALL SELECT concat_ws(' ', 'function', regexp_replace(p.oid::regprocedure::text, '_[0-9]+\(', '_N('), p.proacl) FROM pg_proc p WHERE p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
	UNION ALL SELECT concat_ws(' ', 'view', v.schemaname, v.viewname, regexp_replace(v.definition, '\y(gate|committed|tab =) ?_?[0-9]+', 'N', 'g')) FROM pg_views v WHERE v.schemaname NOT IN ('pg_catalog', 'information_schema')
	UNION ALL SELECT concat_ws(' ', 'index', pg_get_indexdef(i.indexrelid)) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
	UNION ALL SELECT concat_ws(' ', 'constraint', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid)) FROM pg_constraint k WHERE k.connamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
	UNION ALL SELECT concat_ws(' ', 'protected', p.rel, p.capture, p.enforce) FROM handfast.protected p) x ORDER BY r`

const shop = `CREATE SCHEMA shop; CREATE SCHEMA empty; CREATE SCHEMA "Odd one";
	CREATE TABLE shop.item (id int PRIMARY KEY, name text UNIQUE);
	CREATE TABLE shop.line (id int, at date, item int REFERENCES shop.item, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	CREATE TABLE shop.line_1 PARTITION OF shop.line FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
	CREATE TABLE shop.log (n int);
	CREATE TABLE "Odd one"."It's" (id int PRIMARY KEY);
	CREATE TABLE stock (id int PRIMARY KEY, item int REFERENCES shop.item);
	CREATE TABLE stock_old (id int PRIMARY KEY);
	CREATE TABLE shops (id int PRIMARY KEY);
	CREATE VIEW seen AS SELECT * FROM stock;`

// What protect did is undone by unprotect, down to the last trigger, whether it
// was told tables, schemas or patterns, and doing either twice is doing it once.
func TestProtectIsUndone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		names []string
		want  string
	}{
		"a table":              {[]string{"stock"}, "public.stock"},
		"a table of a schema":  {[]string{"shop.item"}, "shop.item"},
		"several":              {[]string{"stock", "shop.item", "stock"}, "public.stock shop.item"},
		"a schema":             {[]string{"shop"}, "shop.item shop.line"},
		"an odd schema":        {[]string{"Odd one"}, `"Odd one"."It's"`},
		"an odd schema quoted": {[]string{`"Odd one"`}, `"Odd one"."It's"`},
		"an odd table":         {[]string{`"Odd one"."It's"`}, `"Odd one"."It's"`},
		"all of a schema":      {[]string{"shop.*"}, "shop.item shop.line"},
		"a pattern":            {[]string{"stock*"}, "public.stock public.stock_old"},
		"a letter":             {[]string{"s?op.i*"}, "shop.item"},
		"an underscore":        {[]string{"stock_*"}, "public.stock_old"},
		"all":                  {[]string{"*.*"}, `"Odd one"."It's" public.shops public.stock public.stock_old shop.item shop.line`},
		"a partition":          {[]string{"shop.line_1"}, "shop.line"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			d := newDatabase(t, shop)
			before := d.lines(catalog)
			var after string
			for range 2 {
				tables, err := undolog.ProtectTables(ctx, d.own, c.names, undolog.WithCommittedView())
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]bool{}
				for _, p := range tables {
					got[p.Name] = true
				}
				for _, want := range splitNames(c.want) {
					if !got[want] {
						t.Errorf("%s is not protected: %v", want, tables)
					}
					delete(got, want)
				}
				if len(got) > 0 {
					t.Errorf("protected as well: %v", got)
				}
				if now := d.lines(catalog); after != "" && now != after {
					t.Errorf("a second time changed something:\n%s", listDiff(after, now))
				}
				after = d.lines(catalog)
			}
			for range 2 {
				if err := undolog.Unprotect(ctx, d.own, c.names...); err != nil {
					t.Fatal(err)
				}
				if now := d.lines(catalog); now != before {
					t.Fatalf("something is left:\n%s", listDiff(before, now))
				}
			}
		})
	}
}

func splitNames(s string) []string {
	if strings.HasPrefix(s, `"`) {
		odd, rest, _ := strings.Cut(s, `'s"`)
		return append([]string{odd + `'s"`}, strings.Fields(rest)...)
	}
	return strings.Fields(s)
}

func listDiff(a, b string) string {
	var out strings.Builder
	only := func(sign, x, y string) {
		for line := range strings.Lines(x) {
			if !strings.Contains("\n"+y+"\n", "\n"+strings.TrimSuffix(line, "\n")+"\n") {
				out.WriteString(sign + strings.TrimSuffix(line, "\n") + "\n")
			}
		}
	}
	only("- ", a, b)
	only("+ ", b, a)
	return out.String()
}

// The printed SQL does what protect does, in psql as well as through pgx.
func TestPrintedSQLDoesTheSame(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	names, option := []string{"stock", "Odd one", "shop"}, undolog.WithCommittedView()
	protected := newDatabase(t, shop)
	if _, err := undolog.ProtectTables(ctx, protected.own, names, option); err != nil {
		t.Fatal(err)
	}
	want := protected.lines(catalog)
	for name, run := range map[string]func(*database, string) error{
		"pgx": func(d *database, sql string) error {
			_, err := d.own.Exec(ctx, sql)
			return err
		},
		"psql": func(d *database, sql string) error {
			cmd := exec.CommandContext(ctx, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", d.dsn)
			cmd.Stdin = strings.NewReader(sql)
			if out, err := cmd.CombinedOutput(); err != nil {
				return errors.New(err.Error() + ": " + string(out))
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(name); name == "psql" && err != nil {
				t.Skip("SKIPPED: there is no psql on this machine")
			}
			d := newDatabase(t, shop)
			before := d.lines(catalog)
			for _, state := range []string{"at first", "again"} {
				sql, err := undolog.ProtectSQL(ctx, d.own, names, option)
				if err != nil {
					t.Fatal(err)
				}
				if now := d.lines(catalog); state == "at first" && now != before {
					t.Fatalf("printing changed something:\n%s", listDiff(before, now))
				}
				if strings.ContainsFunc(sql, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }) {
					t.Error("there is a control character in what is printed")
				}
				if err := run(d, sql); err != nil {
					t.Fatal(err)
				}
				if got := d.lines(catalog); got != want {
					t.Fatalf("%s:\n%s", state, listDiff(want, got))
				}
			}
			// It captures, and it can be undone.
			d.exec(d.own, "INSERT INTO shop.item VALUES (1, 'a')")
			data := d.dump()
			id := newXID()
			l := d.work(id, "INSERT INTO shop.item VALUES (2, 'b')", "UPDATE shop.item SET name = 'c' WHERE id = 1")
			d.mustSettle(id, false, l)
			if got := d.dump(); got != data {
				t.Errorf("after the rollback:\n%s", listDiff(data, got))
			}
			if err := undolog.Unprotect(ctx, d.own, names...); err != nil {
				t.Fatal(err)
			}
			if now := d.lines(catalog); now != before {
				t.Errorf("something is left:\n%s", listDiff(before, now))
			}
		})
	}
}

// What is printed for a table that somebody protected meanwhile fails as a whole.
func TestPrintedSQLIsForTheStateItWasPrintedIn(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDatabase(t, shop)
	sql, err := undolog.ProtectSQL(ctx, d.own, []string{"stock"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := undolog.Protect(ctx, d.own, "stock"); err != nil {
		t.Fatal(err)
	}
	before := d.lines(catalog)
	if _, err := d.own.Exec(ctx, sql); err == nil {
		t.Error("it ran")
	}
	d.exec(d.own, "ROLLBACK")
	if now := d.lines(catalog); now != before {
		t.Errorf("it changed something:\n%s", listDiff(before, now))
	}
}

func TestProtectNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDatabase(t, shop+"CREATE TABLE mine (id int PRIMARY KEY); CREATE VIEW mine_committed AS SELECT 1 AS id")
	before := d.lines(catalog)
	for name, want := range map[string]string{
		"nowhere":      `table "nowhere" does not exist`,
		"shop.nowhere": `table "shop.nowhere" does not exist`,
		`"`:            `table "\"" does not exist`,
		"a.b.c.d":      `table "a.b.c.d" does not exist`,
		"no*":          `"no*" stands for no table`,
		"empty":        `"empty" stands for no table`,
		"shop.l?g":     `none of the 1 tables that "shop.l?g" stands for has a primary key`,
		"seen":         "table public.seen is a view, not an ordinary table",
		"stock_pkey":   "table public.stock_pkey is an index, not an ordinary table",
		"shop.log":     "table shop.log has no primary key",
		"pg_class":     "belongs to Handfast or to Postgres",
		"mine":         "there is another",
	} {
		for what, try := range map[string]func() error{
			"protect": func() error {
				_, err := undolog.ProtectTables(ctx, d.own, []string{"stock", name}, undolog.WithCommittedView())
				return err
			},
			"print": func() error {
				_, err := undolog.ProtectSQL(ctx, d.own, []string{"stock", name}, undolog.WithCommittedView())
				return err
			},
		} {
			if err := try(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of %s: %v; want %s", what, name, err, want)
			}
		}
	}
	if now := d.lines(catalog); now != before {
		t.Errorf("what failed changed something:\n%s", listDiff(before, now))
	}
	// Unprotect leaves alone a view that only has the name of ours.
	if _, err := undolog.Protect(ctx, d.own, "mine"); err != nil {
		t.Fatal(err)
	}
	if err := undolog.Unprotect(ctx, d.own, "mine"); err != nil {
		t.Fatal(err)
	}
	if now := d.lines(catalog); now != before {
		t.Errorf("something is left:\n%s", listDiff(before, now))
	}
}

// A view of committed rows stays right through an ordinary protect, which is what
// doctor asks for after the table was altered.
func TestProtectKeepsTheCommittedView(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDatabase(t, "CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (1)")
	if _, err := undolog.ProtectTables(ctx, d.own, []string{"c"}, undolog.WithCommittedView()); err != nil {
		t.Fatal(err)
	}
	d.exec(d.own, "ALTER TABLE c ADD v int NOT NULL DEFAULT 7")
	if _, err := undolog.Protect(ctx, d.own); err != nil {
		t.Fatal(err)
	}
	id := newXID()
	l := d.work(id, "UPDATE c SET v = 8")
	if got := d.lines("SELECT c::text FROM c_committed c"); got != "(1,7)" {
		t.Errorf("the view shows %s", got)
	}
	d.mustSettle(id, false, l)
}

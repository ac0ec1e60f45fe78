package undolog_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/undolog"
)

// script is what a local transaction does: statements, then what SQL can't say.
type script struct {
	name string
	sql  []string
	do   func(context.Context, *pgx.Conn) error
}

func (s script) run(conn *pgx.Conn) error {
	ctx := context.Background()
	for _, q := range s.sql {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	if s.do != nil {
		return s.do(ctx, conn)
	}
	return nil
}

// snapshot is every row of every table of the user: each column as its type's
// output function writes it, whatever the session has set, sorted as bytes. It
// looks at each table by itself, so a partition or an heir is not seen twice.
func snapshot(tb testing.TB, conn *pgx.Conn) string {
	tb.Helper()
	ctx := context.Background()
	begin, end := "BEGIN", "ROLLBACK"
	if conn.PgConn().TxStatus() != 'I' {
		begin, end = "SAVEPOINT snapshot", "ROLLBACK TO snapshot"
	}
	must := func(sql string) {
		tb.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			tb.Fatalf("snapshot: %s: %v", sql, err)
		}
	}
	must(begin)
	must(`SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL extra_float_digits = 3; SET LOCAL TimeZone = 'UTC';
		SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'; SET LOCAL search_path = pg_catalog; SET LOCAL quote_all_identifiers = off;
		SET LOCAL client_encoding = 'UTF8'; SET LOCAL standard_conforming_strings = on; SET LOCAL row_security = off`)
	var query string
	// %L of a column with NULL is NULL, of one with a text 'NULL' is 'NULL'.
	if err := conn.QueryRow(ctx, `SELECT 'SELECT * FROM (' || coalesce(string_agg(format('SELECT %L, %s FROM ONLY %I.%I x', t.nspname || '.' || t.relname, t.columns, t.nspname, t.relname), ' UNION ALL ' ORDER BY t.nspname, t.relname), 'SELECT '''', '''' WHERE false')
			|| ') q (tab, line) ORDER BY tab, line COLLATE "C"'
		FROM (SELECT n.nspname, c.relname, coalesce(string_agg(format('format(''%%L'', x.%I)', a.attname), ' || '','' || ' ORDER BY a.attnum), '''''') AS columns
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('handfast', 'pg_catalog', 'information_schema')
			GROUP BY n.nspname, c.relname) t`).Scan(&query); err != nil {
		tb.Fatalf("snapshot: %v", err)
	}
	rows, err := conn.Query(ctx, query, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		tb.Fatalf("snapshot: %s: %v", query, err)
	}
	var b strings.Builder
	var table, line string
	if _, err := pgx.ForEachRow(rows, []any{&table, &line}, func() error {
		fmt.Fprintf(&b, "%s: %s\n", table, line)
		return nil
	}); err != nil {
		tb.Fatalf("snapshot: %s: %v", query, err)
	}
	must(end)
	return b.String()
}

// difference is the lines that only one of two snapshots has, shortened.
func difference(got, want string) string {
	count := map[string]int{}
	for line := range strings.SplitSeq(want, "\n") {
		count[line]--
	}
	for line := range strings.SplitSeq(got, "\n") {
		count[line]++
	}
	var b strings.Builder
	for _, side := range []struct {
		mark string
		sign int
		from string
	}{{"want", -1, want}, {"got ", 1, got}} {
		for line := range strings.SplitSeq(side.from, "\n") {
			if count[line]*side.sign > 0 {
				fmt.Fprintf(&b, "%s %.300s\n", side.mark, line)
			}
		}
	}
	return b.String()
}

// sequences tells the statement that puts all sequences back to where they are:
// Postgres never does, so a second run of a script would differ from the first.
func sequences(tb testing.TB, conn *pgx.Conn) string {
	tb.Helper()
	var sql string
	if err := conn.QueryRow(context.Background(), `SELECT coalesce(string_agg(format('SELECT pg_catalog.setval(%L, %s, %L)',
			format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value), last_value IS NOT NULL), ';'), '')
		FROM pg_sequences WHERE schemaname <> 'handfast'`).Scan(&sql); err != nil {
		tb.Fatal(err)
	}
	return sql
}

// stage is a database with a session that does the work.
type stage struct {
	*database
	worker *pgx.Conn
}

func newStage(tb testing.TB, ddl string) *stage {
	tb.Helper()
	d := &database{t: tb, dsn: cluster.DSN(tb)}
	d.own = d.connect()
	d.exec(d.own, ddl)
	return &stage{database: d, worker: d.connect()}
}

// in is the stage for a subtest, which fails by itself.
func (d *stage) in(tb testing.TB) *stage {
	tb.Helper()
	return &stage{database: &database{t: tb, dsn: d.dsn, own: d.own}, worker: d.worker}
}

// plainly runs a script without a global transaction and tells what it would
// leave. It leaves nothing itself.
func (d *stage) plainly(s script) (after string, err error) {
	d.t.Helper()
	restart := sequences(d.t, d.own)
	d.exec(d.worker, "BEGIN")
	if err = s.run(d.worker); err == nil {
		d.exec(d.worker, "SET CONSTRAINTS ALL IMMEDIATE")
		d.exec(d.worker, "SET LOCAL ROLE NONE") // who may see everything
		after = snapshot(d.t, d.worker)
	}
	d.exec(d.worker, "ROLLBACK")
	d.exec(d.own, restart)
	return after, err
}

// globally runs a script as the only branch of a global transaction, and
// settles it. between is what the local transaction left.
func (d *stage) globally(s script, commit bool) (between string, err error) {
	d.t.Helper()
	ctx := context.Background()
	id, branch := newXID(), newBranch()
	defer func() {
		if d.worker.PgConn().TxStatus() != 'I' {
			d.exec(d.worker, "ROLLBACK")
		}
	}()
	d.exec(d.worker, "BEGIN")
	sql, args := undolog.Arm(id, branch, undolog.ArmOptions{LockTimeout: 3 * time.Second})
	d.exec(d.worker, sql, args...)
	if err := s.run(d.worker); err != nil {
		return "", fmt.Errorf("phase one: %w", err)
	}
	sql, args = undolog.Seal(witness)
	var wrote bool
	if err := d.worker.QueryRow(ctx, sql, args...).Scan(&wrote); err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	if _, err := d.worker.Exec(ctx, "COMMIT"); err != nil {
		return "", fmt.Errorf("phase one: commit: %w", err)
	}
	between = snapshot(d.t, d.own)
	return between, undolog.Settle(ctx, d.own, []undolog.Settlement{{
		XID: id, Commit: commit, Branches: []undolog.BranchVote{{ID: branch, Yes: wrote}},
	}}, undolog.SettleOptions{})[0].Err
}

// judge runs a script twice, rolled back and committed, against what it does
// plainly. It leaves the database changed.
func (d *stage) judge(s script, plain string) {
	d.t.Helper()
	tb := d.t
	before := snapshot(tb, d.own)
	restart := sequences(tb, d.own)
	judged.Add(1)
	for _, commit := range []bool{false, true} {
		end, want := "rollback", before
		if commit {
			end, want = "commit", plain
		}
		between, err := d.globally(s, commit)
		if err != nil {
			tb.Fatalf("%s: %v", end, err)
		}
		if between != plain {
			tb.Fatalf("%s: capture changed what the statements do:\n%s", end, difference(between, plain))
		}
		if after := snapshot(tb, d.own); after != want {
			tb.Fatalf("after %s:\n%s", end, difference(after, want))
		}
		settlements.Add(1)
		if n := d.litter(); n != 0 {
			tb.Fatalf("after %s %d rows of ours are left", end, n)
		}
		d.exec(d.own, restart)
	}
}

// scene is tables and what is done to them.
type scene struct {
	ddl     string
	protect string // tables, apart by blanks
	late    string // after Protect, which is then called once more
	script
}

// play sets a scene up in a database of its own, and judges it.
func (s scene) play(t *testing.T) {
	t.Helper()
	d := newStage(t, s.ddl)
	// The twin is the same database before anything of ours is in it.
	plain, err := d.plainly(script{sql: append([]string{s.late}, s.sql...), do: s.do})
	if err != nil {
		t.Fatalf("the scene itself is wrong: %v", err)
	}
	d.protect(strings.Fields(s.protect)...)
	if s.late != "" {
		d.exec(d.own, s.late)
		d.protect(strings.Fields(s.protect)...)
	}
	d.judge(s.script, plain)
}

// protect installs, too.
func (d *database) protect(tables ...string) {
	d.t.Helper()
	if err := undolog.Install(context.Background(), d.own); err != nil {
		d.t.Fatal(err)
	}
	if _, err := undolog.Protect(context.Background(), d.own, tables...); err != nil {
		d.t.Fatal(err)
	}
}

func playAll(t *testing.T, scenes map[string]scene) {
	t.Helper()
	for name, s := range scenes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.play(t)
		})
	}
}

// refill brings the tables back to the state that fill describes.
func (d *database) refill(fill string) {
	d.t.Helper()
	var all string
	if err := d.own.QueryRow(context.Background(), `SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname NOT IN ('handfast', 'pg_catalog', 'information_schema')`).Scan(&all); err != nil {
		d.t.Fatal(err)
	}
	d.exec(d.own, "TRUNCATE "+all+" RESTART IDENTITY")
	d.exec(d.own, "ALTER SEQUENCE IF EXISTS ids RESTART")
	d.exec(d.own, fill)
}

// course is scripts on the same tables, one after the other in one database.
type course struct {
	ddl     string
	fill    string // before each script
	protect string
	scripts []script
}

func (c course) run(t *testing.T) {
	t.Helper()
	twin := newStage(t, c.ddl)
	twin.refill(c.fill)
	var d *stage // made anew after a failure, which leaves intents
	for _, s := range c.scripts {
		if d == nil {
			d = newStage(t, c.ddl)
			d.protect(strings.Fields(c.protect)...)
		}
		ok := t.Run(s.name, func(t *testing.T) {
			plain, err := twin.in(t).plainly(s)
			if err != nil {
				t.Fatalf("the case itself is wrong: %v", err)
			}
			d.in(t).refill(c.fill)
			d.in(t).judge(s, plain)
		})
		if !ok {
			d = nil
		}
	}
}

// Every kind of statement against every shape of table: rolled back it leaves
// every byte as it was, committed it leaves what plain Postgres leaves.
func TestMatrixOfStatementsAndShapes(t *testing.T) {
	t.Parallel()
	for i, name := range slices.Sorted(maps.Keys(shapes)) {
		sh := shapes[name]
		if !some(i) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := course{ddl: sh.ddl + ";" + writers, fill: sh.fill, protect: sh.protect}
			if c.fill == "" {
				c.fill = usualRows
			}
			for j, st := range statements {
				if !*everything && (i+j)%3 > 0 {
					continue
				}
				if st.needs == "" || !strings.Contains(sh.lacks, st.needs) {
					c.scripts = append(c.scripts, st.on(sh))
				}
			}
			c.run(t)
		})
	}
}

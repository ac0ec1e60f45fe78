package undolog_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// behind runs something that no trigger sees.
func (d *database) behind(table, sql string) {
	d.t.Helper()
	d.exec(d.own, silently(fmt.Sprintf("ALTER TABLE %s DISABLE TRIGGER ALL; %s; ALTER TABLE %[1]s ENABLE TRIGGER ALL", table, sql)))
	d.exec(d.own, "SELECT handfast.always(id) FROM handfast.protected")
}

func (d *database) diff(id xid.ID) undolog.Difference {
	d.t.Helper()
	got, err := undolog.Diff(context.Background(), d.own, id, undolog.DiffOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	return got
}

func (d *database) choose(id xid.ID, r undolog.Resolution) error {
	if r.Who == "" {
		r.Who = "ann"
	}
	if r.Table == "" {
		r.Table = "g"
	}
	return undolog.Resolve(context.Background(), d.own, id, r)
}

func (d *database) mustChoose(id xid.ID, r undolog.Resolution) {
	d.t.Helper()
	if err := d.choose(id, r); err != nil {
		d.t.Fatal(err)
	}
}

func (d *database) value(sql string, args ...any) string {
	d.t.Helper()
	var s *string
	if err := d.own.QueryRow(context.Background(), "SELECT ("+sql+")::text", args...).Scan(&s); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	if s == nil {
		return "<null>"
	}
	return *s
}

func (d *database) mustMisfit(id xid.ID, l *local, want string) {
	d.t.Helper()
	now := d.dump()
	err := d.settle(d.own, id, false, l)
	misfit, ok := errors.AsType[*undolog.MisfitError](err)
	if !ok || !strings.Contains(misfit.What, want) {
		d.t.Fatalf("want a misfit that says %q: %v", want, err)
	}
	if d.dump() != now {
		d.t.Fatal("something was changed all the same")
	}
}

func text(s string) *string { return &s }

// Each choice, for each way in which a row can be other than it was left.
func TestResolveCarriesOutEachChoice(t *testing.T) {
	t.Parallel()
	const ddl = "CREATE TABLE g (id int PRIMARY KEY, v int, w text); INSERT INTO g SELECT i, i, 'w' || i FROM generate_series(1, 9) i"
	type want struct{ restore, keep, edit string }
	tests := map[string]struct {
		work, behind, key  string
		before, after, now bool
		want               want // of row key, as text; - where it is gone, ! where it is refused
		edit               []undolog.Edit
	}{
		"update, updated": {"UPDATE g SET v = 0 WHERE id < 5", "UPDATE g SET v = 77 WHERE id = 2", "2", true, true, true,
			want{"(2,2,w2)", "(2,77,w2)", "(2,5,w2)"}, nil},
		"update, deleted": {"UPDATE g SET v = 0 WHERE id < 5", "DELETE FROM g WHERE id = 2", "2", true, true, false,
			want{"!", "-", "(2,5,x)"}, []undolog.Edit{{"v", text("5")}, {"w", text("x")}}},
		"insert, updated": {"INSERT INTO g VALUES (20, 1, 'a')", "UPDATE g SET v = 77 WHERE id = 20", "20", false, true, true,
			want{"-", "(20,77,a)", "(20,5,a)"}, nil},
		"insert, deleted": {"INSERT INTO g VALUES (20, 1, 'a')", "DELETE FROM g WHERE id = 20", "20", false, true, false,
			want{"-", "-", "(20,5,)"}, []undolog.Edit{{"v", text("5")}, {"w", nil}}},
		"delete, key reused": {"DELETE FROM g WHERE id < 5", "INSERT INTO g VALUES (2, 9, 'new')", "2", true, false, true,
			want{"(2,2,w2)", "(2,9,new)", "(2,5,w2)"}, nil},
		"twice, updated": {"UPDATE g SET v = 0 WHERE id = 2; UPDATE g SET v = 1, w = 'y' WHERE id = 2", "UPDATE g SET w = 'z' WHERE id = 2", "2", true, true, true,
			want{"(2,2,w2)", "(2,1,z)", "(2,5,w2)"}, nil},
		"delete and insert, updated": {"DELETE FROM g WHERE id = 2; INSERT INTO g VALUES (2, 0, 'b')", "UPDATE g SET v = 77 WHERE id = 2", "2", true, true, true,
			want{"(2,2,w2)", "(2,77,b)", "(2,5,w2)"}, nil},
	}
	for name, tt := range tests {
		for choice, want := range map[undolog.Choice]string{undolog.ChoiceRestore: tt.want.restore, undolog.ChoiceKeep: tt.want.keep, undolog.ChoiceEdit: tt.want.edit} {
			t.Run(fmt.Sprintf("%s/%s", name, choice), func(t *testing.T) {
				t.Parallel()
				d := newDatabase(t, ddl, "g")
				id := newXID()
				l := d.work(id, strings.Split(tt.work, "; ")...)
				d.behind("g", tt.behind)
				d.mustMisfit(id, l, "is not what")
				got := d.diff(id)
				if r := got.Rows[0]; got.Contradictions != 1 || got.Undecided != 1 || !r.Contradicts || r.Key[0] != tt.key || r.Table != "public.g" || r.KeyColumns[0] != "id" ||
					r.Before != tt.before || r.After != tt.after || r.Now != tt.now || r.Choice != nil {
					t.Fatalf("%+v", got)
				}
				res := undolog.Resolution{Key: []string{tt.key}, Choice: choice, Why: "a test", Seen: got.Rows[0].Seen}
				if choice == undolog.ChoiceEdit {
					if res.Values = tt.edit; res.Values == nil {
						res.Values = []undolog.Edit{{"v", text("5")}}
					}
				}
				err := d.choose(id, res)
				if want == "!" {
					if !errors.Is(err, undolog.ErrBadChoice) || !strings.Contains(err.Error(), "columns w") {
						t.Fatal(err)
					}
					d.mustMisfit(id, l, "is not what")
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				d.mustChoose(id, res) // again: nothing new
				if c := d.diff(id); c.Undecided != 0 || c.Rows[0].Choice == nil || c.Rows[0].Choice.Who != "ann" || c.Rows[0].Choice.Why != "a test" || c.Rows[0].Choice.Stale {
					t.Fatalf("%+v", c)
				}
				d.mustSettle(id, false, l)
				if row := d.value("SELECT coalesce((SELECT g::text FROM g WHERE id = $1::int), '-')", tt.key); row != want {
					t.Errorf("row is %s, want %s", row, want)
				}
				if rest := d.value("SELECT count(*) FILTER (WHERE v = id AND w = 'w' || id) FROM g WHERE id <> $1::int", tt.key); rest != "9" && rest != "8" {
					t.Errorf("%s other rows are as before", rest)
				}
				if d.litter() != 0 {
					t.Error("intents are left")
				}
				if n := d.value("SELECT count(*) || ' ' || count(done) FROM handfast.resolution WHERE who = 'ann' AND choice = $1", string(choice)); n != "1 1" {
					t.Errorf("on record and done: %s", n)
				}
			})
		}
	}
}

func TestDiffShowsColumnsBeforeAfterAndNow(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id < 4")
	if got := d.diff(id); got.Total != 3 || got.Contradictions != 0 || len(got.Rows) != 3 {
		t.Fatalf("before any contradiction: %+v", got)
	}
	d.behind("g", "UPDATE g SET v = NULL WHERE id = 3")
	got := d.diff(id)
	r := got.Rows[0]
	want := undolog.ColumnDiff{Name: "v", Before: undolog.Image{Text: "3"}, After: undolog.Image{Text: "0"}, Now: undolog.Image{Null: true}, Contradicts: true}
	if got.Total != 3 || got.Contradictions != 1 || r.Key[0] != "3" || len(r.Columns) != 1 || r.Columns[0] != want || got.Rows[1].Columns[0].Contradicts {
		t.Fatalf("%+v", got)
	}
	few, err := undolog.Diff(context.Background(), d.own, id, undolog.DiffOptions{Rows: 1})
	if err != nil || few.Total != 3 || len(few.Rows) != 1 || few.Rows[0].Key[0] != "3" {
		t.Fatalf("%+v %v", few, err)
	}
	d.behind("g", "UPDATE g SET v = 0 WHERE id = 3")
	d.mustSettle(id, false, l)
	if got := d.diff(id); got.Total != 0 || got.Rows != nil {
		t.Fatalf("after: %+v", got)
	}
}

func TestDiffCutsLongValuesAndBoundsTheWhole(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, "CREATE TABLE g (id int PRIMARY KEY, v text); INSERT INTO g SELECT i, repeat('ä', 50) FROM generate_series(1, 20) i", "g")
	id := newXID()
	d.work(id, "UPDATE g SET v = repeat('ö', 10)")
	got, err := undolog.Diff(context.Background(), d.own, id, undolog.DiffOptions{ValueRunes: 10, Bytes: 100})
	if err != nil || len(got.Rows) == 0 || len(got.Rows) > 3 || got.Total != 20 {
		t.Fatalf("%d rows of %d, %v", len(got.Rows), got.Total, err)
	}
	c := got.Rows[0].Columns[0]
	if c.Before != (undolog.Image{Text: strings.Repeat("ä", 10), Cut: true}) || c.After != (undolog.Image{Text: strings.Repeat("ö", 10)}) {
		t.Errorf("%+v", c)
	}
}

// A choice is for what was there when it was made, and for nothing else.
func TestResolveDoesNotHoldForARowThatChangedAgain(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id = 1")
	d.behind("g", "UPDATE g SET v = 7 WHERE id = 1")
	seen := d.diff(id).Rows[0].Seen
	d.mustChoose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceKeep, Seen: seen})
	d.behind("g", "UPDATE g SET v = 8 WHERE id = 1")
	d.mustMisfit(id, l, "changed again after ann chose to keep")
	if got := d.diff(id); got.Undecided != 1 || !got.Rows[0].Choice.Stale {
		t.Fatalf("%+v", got)
	}
	err := d.choose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceRestore, Seen: seen})
	if !errors.Is(err, undolog.ErrRowChanged) {
		t.Fatalf("from what was seen before: %v", err)
	}
	d.mustChoose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceRestore, Seen: d.diff(id).Rows[0].Seen})
	d.mustSettle(id, false, l)
	if v := d.value("SELECT v FROM g WHERE id = 1"); v != "1" {
		t.Errorf("v is %s", v)
	}
	if n := d.value("SELECT string_agg(concat_ws(' ', choice, done IS NULL, replaced IS NULL), ', ' ORDER BY id) FROM handfast.resolution"); n != "keep t f, restore f t" {
		t.Errorf("on record: %s", n)
	}
}

func TestResolveIsNotNeededWhereTheRowWasPutRight(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id = 1")
	d.behind("g", "UPDATE g SET v = 7 WHERE id = 1")
	d.mustChoose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceKeep})
	d.behind("g", "UPDATE g SET v = 0 WHERE id = 1")
	d.mustSettle(id, false, l)
	if v := d.value("SELECT v FROM g WHERE id = 1"); v != "1" {
		t.Errorf("v is %s", v)
	}
	if n := d.value("SELECT count(*) FROM handfast.resolution WHERE done IS NULL AND replaced IS NOT NULL"); n != "1" {
		t.Errorf("%s choices were given up", n)
	}
}

// One row without a choice holds up all of them.
func TestResolveOfSeveralRows(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id < 10", "DELETE FROM g WHERE id = 100")
	d.behind("g", "UPDATE g SET v = 7 WHERE id IN (1, 2, 3); INSERT INTO g VALUES (100, 7)")
	d.mustChoose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceKeep})
	d.mustChoose(id, undolog.Resolution{Key: []string{"2"}, Choice: undolog.ChoiceRestore})
	d.mustMisfit(id, l, "is not what")
	if got := d.diff(id); got.Contradictions != 4 || got.Undecided != 2 {
		t.Fatalf("%+v", got)
	}
	d.mustChoose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceEdit, Values: []undolog.Edit{{"v", nil}}}) // another mind
	n, err := undolog.ResolveAll(context.Background(), d.own, id, undolog.ChoiceKeep, "bob", "")
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if n, err := undolog.ResolveAll(context.Background(), d.own, id, undolog.ChoiceRestore, "bob", ""); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	d.mustSettle(id, false, l)
	if got := d.value("SELECT string_agg(coalesce(v::text, 'null'), ' ' ORDER BY id) FROM g WHERE id < 6 OR id = 100"); got != "null 2 7 4 5 7" {
		t.Errorf("got %s", got)
	}
}

func TestResolveRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE DOMAIN small AS int CHECK (VALUE < 100); CREATE DOMAIN code AS varchar(3);
		CREATE TABLE g (id int PRIMARY KEY, v int NOT NULL, t varchar(3), s small, k code, l varchar(2)[], b bit(3), f char(4), c int GENERATED ALWAYS AS (v + 1) STORED);
		INSERT INTO g (id, v, t, s) VALUES (1, 1, 'a', 1), (2, 2, 'b', 2); CREATE TABLE h (id int PRIMARY KEY)`
	d := newDatabase(t, ddl, "g", "h")
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id = 1")
	d.behind("g", "UPDATE g SET v = 7 WHERE id = 1")
	edit := func(c string, v *string) undolog.Resolution {
		return undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceEdit, Values: []undolog.Edit{{c, v}}}
	}
	tests := map[string]struct {
		id   xid.ID
		r    undolog.Resolution
		kind error
		want string
	}{
		"another transaction": {newXID(), undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceKeep}, undolog.ErrNothingToUndo, "nothing to roll back"},
		"another table":       {id, undolog.Resolution{Table: "h", Key: []string{"1"}, Choice: undolog.ChoiceKeep}, undolog.ErrUnknownRow, "changed public.g"},
		"another row":         {id, undolog.Resolution{Key: []string{"2"}, Choice: undolog.ChoiceKeep}, undolog.ErrUnknownRow, "changed no row {2}"},
		"no key":              {id, undolog.Resolution{Choice: undolog.ChoiceKeep}, undolog.ErrBadChoice, "1 values (id)"},
		"half a key":          {id, undolog.Resolution{Key: []string{"1", "2"}, Choice: undolog.ChoiceKeep}, undolog.ErrBadChoice, "1 values (id)"},
		"a key of no number":  {id, undolog.Resolution{Key: []string{"x"}, Choice: undolog.ChoiceKeep}, undolog.ErrBadChoice, "no key"},
		"a zero byte":         {id, undolog.Resolution{Key: []string{"1\x00"}, Choice: undolog.ChoiceKeep}, undolog.ErrBadChoice, "zero byte"},
		"no UTF-8":            {id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceKeep, Why: "\xff"}, undolog.ErrBadChoice, "UTF-8"},
		"no choice":           {id, undolog.Resolution{Key: []string{"1"}}, undolog.ErrBadChoice, "restore, keep, edit"},
		"another choice":      {id, undolog.Resolution{Key: []string{"1"}, Choice: "drop"}, undolog.ErrBadChoice, "restore, keep, edit"},
		"keep with values":    {id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceKeep, Values: []undolog.Edit{{"v", nil}}}, undolog.ErrBadChoice, "takes no values"},
		"edit without":        {id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceEdit}, undolog.ErrBadChoice, "needs the value"},
		"long why":            {id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceKeep, Why: strings.Repeat("y", 1025)}, undolog.ErrBadChoice, "1024"},
		"no such column":      {id, edit("x", nil), undolog.ErrBadChoice, "no column x"},
		"the key's column":    {id, edit("id", text("3")), undolog.ErrBadChoice, "part of the key"},
		"generated column":    {id, edit("c", text("3")), undolog.ErrBadChoice, "generated"},
		"not null":            {id, edit("v", nil), undolog.ErrBadChoice, "NULL"},
		"not a number":        {id, edit("v", text("many")), undolog.ErrBadChoice, `"many"`},
		"too long":            {id, edit("t", text("abcd")), undolog.ErrBadChoice, "does not fit into"},
		"too long for domain": {id, edit("k", text("abcd")), undolog.ErrBadChoice, "does not fit into"},
		"too long in array":   {id, edit("l", text("{a,abc}")), undolog.ErrBadChoice, "does not fit into"},
		"too few bits":        {id, edit("b", text("10")), undolog.ErrBadChoice, "does not fit into"},
		"outside of domain":   {id, edit("s", text("100")), undolog.ErrBadChoice, "check"},
		"given twice": {id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceEdit, Values: []undolog.Edit{{"v", text("1")}, {"v", text("2")}}},
			undolog.ErrBadChoice, "twice"},
	}
	for name, tt := range tests {
		err := d.choose(tt.id, tt.r)
		c, ok := errors.AsType[*undolog.ChoiceError](err)
		if !ok || !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) || c.Field == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := undolog.Resolve(context.Background(), d.own, id, undolog.Resolution{Table: "g", Key: []string{"1"}, Choice: undolog.ChoiceKeep}); !errors.Is(err, undolog.ErrBadChoice) {
		t.Errorf("without who: %v", err)
	}
	if n := d.value("SELECT count(*) FROM handfast.resolution"); n != "0" {
		t.Errorf("%s choices were recorded", n)
	}
	d.mustChoose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceEdit, Values: []undolog.Edit{
		{"t", text("abc")}, {"k", text("abc")}, {"l", text("{a,bc}")}, {"b", text("101")}, {"f", text("x")}}})
	d.mustSettle(id, false, l)
	if got := d.value("SELECT g FROM g WHERE id = 1"); got != "(1,1,abc,1,abc,\"{a,bc}\",101,\"x   \",2)" {
		t.Error(got)
	}
	if err := d.choose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceKeep}); !errors.Is(err, undolog.ErrNothingToUndo) {
		t.Errorf("after it is settled: %v", err)
	}
}

func TestResolveWithCompositeKeysAndAwkwardNames(t *testing.T) {
	t.Parallel()
	const table = `"my ""odd"" schema"."t.a'b$handfast$"`
	d := newDatabase(t, `CREATE SCHEMA "my ""odd"" schema"; CREATE TABLE `+table+` (n numeric, "k=\" text, "v v" text, "w'" jsonb, PRIMARY KEY ("k=\", n));
		INSERT INTO `+table+` VALUES (1.0, E'it''s {"a"}, \\', 'NULL', '{"a": "''"}'), (1, '', NULL, NULL)`, table)
	id := newXID()
	l := d.work(id, "UPDATE "+table+` SET "v v" = NULL, "w'" = '[]'`)
	d.behind(table, "UPDATE "+table+` SET "v v" = E'a\n"b"'`)
	got := d.diff(id)
	// A column that the transaction did not change is none of its business.
	if got.Contradictions != 1 || got.Total != 2 || got.Rows[0].Table != table || strings.Join(got.Rows[0].KeyColumns, ",") != `k=\,n` {
		t.Fatalf("%+v", got)
	}
	for _, r := range got.Rows {
		res := undolog.Resolution{Table: r.Table, Key: r.Key, Choice: undolog.ChoiceEdit, Seen: r.Seen, Values: []undolog.Edit{{"v v", text(`x'); DROP`)}, {"w'", text(`{"q": "\""}`)}}}
		if r.Key[0] == "" {
			res = undolog.Resolution{Table: "t.a'b$handfast$", Key: []string{"", "1.000"}, Choice: undolog.ChoiceRestore, Seen: r.Seen}
		} else if r.Columns[0].Before.Text != "NULL" || r.Columns[0].Before.Null || r.Columns[0].Now.Text != "a\n\"b\"" || !r.Columns[0].After.Null {
			t.Fatalf("%+v", r)
		}
		d.mustChoose(id, res)
	}
	d.mustSettle(id, false, l)
	if v := d.value(`SELECT string_agg(concat_ws('|', n, "v v", "w'"), ', ' ORDER BY "k=\") FROM ` + table); v != "1|a\n\"b\", 1.0|x'); DROP|{\"q\": \"\\\"\"}" {
		t.Error(v)
	}
}

// A table that was altered can't be compared; the others are shown all the same.
func TestDiffNamesAnAlteredTable(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows+"; CREATE TABLE h (id int PRIMARY KEY, v int); INSERT INTO h VALUES (1, 1)", "g", "h")
	id := newXID()
	d.work(id, "UPDATE g SET v = 0 WHERE id = 1", "UPDATE h SET v = 0")
	d.exec(d.own, "ALTER EVENT TRIGGER handfast_ddl DISABLE; ALTER TABLE h RENAME v TO w")
	got := d.diff(id)
	if got.Total != 2 || got.Contradictions != 1 || got.Rows[0].Table != "public.h" || !strings.Contains(got.Rows[0].Problem, "altered") || got.Rows[1].Table != "public.g" {
		t.Fatalf("%+v", got)
	}
	if _, ok := errors.AsType[*undolog.MisfitError](d.choose(id, undolog.Resolution{Table: "h", Key: []string{"1"}, Choice: undolog.ChoiceKeep})); !ok {
		t.Error("a choice for a row that nobody can see")
	}
}

// What joins tables can be in the way, too; then keeping a row is a way out.
func TestResolveKeepsTheParentOfARowBehindTheBack(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent)", "parent", "child")
	id := newXID()
	l := d.work(id, "INSERT INTO parent VALUES (1), (2)")
	d.behind("child", "INSERT INTO child VALUES (1, 1)")
	d.mustMisfit(id, l, "")
	if got := d.diff(id); got.Total != 2 || got.Contradictions != 0 {
		t.Fatalf("%+v", got)
	}
	d.mustChoose(id, undolog.Resolution{Table: "parent", Key: []string{"1"}, Choice: undolog.ChoiceKeep})
	d.mustSettle(id, false, l)
	if v := d.value("SELECT string_agg(id::text, ' ') FROM parent"); v != "1" {
		t.Error(v)
	}
}

// A choice is on record as a whole or not at all, and nothing is settled beside it.
func TestResolveThatIsCutOffLeavesNothing(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id < 3")
	d.behind("g", "UPDATE g SET v = 7 WHERE id < 3")
	half := d.connect()
	d.exec(half, "BEGIN")
	d.exec(half, "SELECT handfast.choose_all($1, 'keep', 'ann', '')", id.String())
	err := d.settle(d.own, id, false, l)
	if _, ok := errors.AsType[*undolog.BlockedError](err); !ok {
		t.Fatalf("settled beside a choice that is being made: %v", err)
	}
	err = d.choose(id, undolog.Resolution{Key: []string{"1"}, Choice: undolog.ChoiceRestore})
	if _, ok := errors.AsType[*undolog.BlockedError](err); !ok {
		t.Fatalf("another person at the same time: %v", err)
	}
	if gone := d.value("SELECT pg_terminate_backend($1, 20000)", int32(half.PgConn().PID())); gone != "true" {
		t.Fatal("its session does not end")
	}
	if n := d.value("SELECT count(*) FROM handfast.resolution"); n != "0" {
		t.Fatalf("%s choices are on record", n)
	}
	d.mustMisfit(id, l, "is not what")
	if n, err := undolog.ResolveAll(context.Background(), d.own, id, undolog.ChoiceRestore, "bob", ""); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	d.mustSettle(id, false, l)
	if v := d.value("SELECT string_agg(v::text, ' ' ORDER BY id) FROM g WHERE id < 3"); v != "1 2" {
		t.Error(v)
	}
}

package undolog_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/handfast/handfast/undolog"
)

// Whatever an operator gives for a choice, it is recorded for the row that it names, or
// refused with an error that names the field; nothing but the record changes.
func FuzzChoices(f *testing.F) {
	db := newDatabase(f, `CREATE TABLE g (id int PRIMARY KEY, v int, w text, "a""b" text); INSERT INTO g SELECT i, i, 'w', 'x' FROM generate_series(1, 3) i`, "g")
	id := newXID()
	db.work(id, "UPDATE g SET v = 0")
	db.behind("g", "UPDATE g SET v = 77 WHERE id = 2")
	for _, s := range [][]string{
		{"g", "2", "v", "5", "ann", "why", ""}, {"public.g", "2", `a"b`, "x", "ann", "", ""}, {"g; drop table g", "2", "v", "1", "x", "x", "x"}, {"'g'", "2' or '1'='1", "v\" = 1 --", "1'); --", "'", "'", "'"},
		{"pg_class", "1", "oid", "1", "x", "", ""}, {"handfast.undo", "1", "seq", "1", "x", "", ""}, {"g", "2", "id", "9", "x", "", ""}, {"g", "x", "v", "1", "x", "", ""}, {"g", "2", "v", "x", "x", "", ""}, {"", "", "", "", "", "", ""},
		{"g", "2", "v", "1", strings.Repeat("x", 2000), "", ""}, {"g\x00", "2\x00", "v\x00", "\x00", "\x00", "\x00", "\x00"}, {"\xff", "2", "v", "1", "x", "", ""}, {"g", "99999999999999999999", "v", "1", "x", "", ""}, {"g", "2\n3", "v", "1", "x", "", ""}, {"g", "1", "v", "1", "x", "", ""},
	} {
		for how := range uint8(4) {
			f.Add(how, s[0], s[1], s[2], s[3], s[4], s[5], s[6])
		}
	}
	const all = "SELECT (SELECT string_agg(g::text, ';' ORDER BY id) FROM g) || (SELECT count(*) FROM pg_class) || (SELECT count(*) FROM handfast.undo) || (SELECT count(*) FROM handfast.fence)"
	f.Fuzz(func(t *testing.T, how uint8, table, key, column, value, who, why, seen string) {
		d := *db
		d.t = t
		before := d.value(all)
		r := undolog.Resolution{Table: table, Key: strings.Split(key, "\n"), Who: who, Why: why, Seen: seen}
		switch r.Choice = undolog.ChoiceEdit; how % 4 {
		case 0:
			r.Choice = undolog.ChoiceRestore
		case 1:
			r.Choice = undolog.ChoiceKeep
		case 2:
			r.Values = []undolog.Edit{{Column: column, Value: &value}}
		default:
			r.Values = []undolog.Edit{{Column: column}, {Column: "w", Value: &value}}
		}
		err := undolog.Resolve(context.Background(), d.own, id, r)
		c, refused := errors.AsType[*undolog.ChoiceError](err)
		switch {
		case err != nil && (!refused || c.Field == "" || c.XID != id || c.Error() == ""):
			t.Fatalf("%+v: %v", r, err)
		case err == nil && d.value("SELECT count(*) > 0 FROM handfast.resolution WHERE choice = $1", string(r.Choice)) != "true": // the same choice again keeps who was first
			t.Fatalf("%+v was taken", r)
		}
		if after := d.value(all); after != before {
			t.Fatalf("%+v: %s became %s", r, before, after)
		}
	})
}

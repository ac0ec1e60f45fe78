package undolog_test

import (
	"fmt"
	"slices"
	"strconv"

	"pgregory.net/rapid"
)

// round is what is done to the tables until everything has ended.
type round struct {
	Anew  bool // the tables get their first rows back before it
	Deeds []deed
}

// deed is what one step of a run does, as far as the state then allows it.
type deed struct {
	Session int
	Fresh   bool // what the session has open is given up before
	Kind    string
	XID     int    // of an armed transaction, or to settle
	Level   string // of a transaction
	SQL     string // {s} is the schema, {0} the number of a table
	Yes     bool
}

// About half of the deeds are single ones, which know nothing of each other and so
// may do whatever there is. The others are scenes: what single ones seldom add up to.
func roundGen(e extent) *rapid.Generator[round] {
	single, scene := deedGen(e), sceneGen(e)
	some := rapid.Custom(func(t *rapid.T) []deed {
		if rapid.IntRange(0, 3).Draw(t, "scene") > 0 {
			return []deed{single.Draw(t, "deed")}
		}
		return scene.Draw(t, "deeds")
	})
	return rapid.Custom(func(t *rapid.T) round {
		return round{Anew: rapid.SampledFrom([]bool{true, true, false}).Draw(t, "anew"), Deeds: slices.Concat(rapid.SliceOfN(some, 6, 24).Draw(t, "deeds")...)}
	})
}

func deedGen(e extent) *rapid.Generator[deed] {
	about := subjectGen(e)
	return rapid.Custom(func(t *rapid.T) deed {
		return deed{
			Session: rapid.IntRange(0, 3).Draw(t, "session"),
			Kind:    rapid.SampledFrom([]string{"whole", "whole", "whole", "whole", "whole", "read", "read", "write", "write", "write", "write", "savepoint", "back", "commit", "commit", "immediate", "abort", "settle"}).Draw(t, "kind"),
			XID:     rapid.IntRange(-1, 2).Draw(t, "xid"), // -1: plain
			Level:   rapid.SampledFrom([]string{"READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}).Draw(t, "level"),
			SQL:     about.Draw(t, "about").statement(t, anything),
			Yes:     rapid.Bool().Draw(t, "yes"),
		}
	})
}

// sceneGen draws two transactions that write to the same rows, keys and values. The
// first has its snapshot from before the second, which is global, gives up what it
// finds there; it is the first one's turn before anything was decided. Postgres
// itself refuses it the rows that have changed, but not the keys and values that no
// row has any more: there it is only our guard that stands between the first one and
// what a rollback of the second needs.
func sceneGen(e extent) *rapid.Generator[[]deed] {
	about, between := subjectGen(e), deedGen(e)
	return rapid.Custom(func(t *rapid.T) []deed {
		x := about.Draw(t, "about")
		y := x // the same, or what the first row was, in another one
		if rapid.Bool().Draw(t, "other row") {
			y.key, y.key2 = x.key2, x.key
		}
		if rapid.Bool().Draw(t, "its value") {
			y.value = strconv.Itoa(x.key)
		}
		levels, given, wanted := []string{"REPEATABLE READ", "REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED"}, givesUp, wants
		if e.foreignKeys && rapid.Bool().Draw(t, "refer") {
			// A row may be the parent of rows in any table. Above READ COMMITTED Postgres
			// itself refuses those that refer to what is not in their snapshot.
			y.table, y.column = rapid.IntRange(0, 2).Draw(t, "table"), rapid.SampledFrom([]string{"p", "p", "q"}).Draw(t, "column")
			levels = []string{"READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}
			if rapid.Bool().Draw(t, "new parent") {
				x.key = rapid.IntRange(4, 5).Draw(t, "new key") // none of the first rows
				y.key, y.key2 = x.key, rapid.IntRange(1, 3).Draw(t, "child")
				given, wanted = adds, refers
			} else {
				x.column, y.key = y.column, rapid.SampledFrom([]int{1 + x.key%3, x.key}).Draw(t, "parent") // as q and p of the first rows
				given, wanted = departs, removes
			}
		}
		first := rapid.IntRange(0, 3).Draw(t, "first")
		second := (first + rapid.IntRange(1, 3).Draw(t, "second")) % 4
		early := deed{Session: first, Fresh: true, Kind: "read", XID: rapid.SampledFrom([]int{-1, -1, 0, 1}).Draw(t, "xid"),
			Level: rapid.SampledFrom(levels).Draw(t, "level")}
		write := func(session int, about subject, kinds []string) deed {
			return deed{Session: session, Kind: "write", XID: 2, Level: "READ COMMITTED", SQL: about.statement(t, kinds)}
		}
		out := []deed{early}
		for range rapid.IntRange(1, 2).Draw(t, "gives up") {
			out = append(out, write(second, x, given))
			out[1].Fresh = true
		}
		over := deed{Session: second, Kind: "commit", XID: 2, Level: "READ COMMITTED"}
		waits := rapid.IntRange(0, 3).Draw(t, "waits") == 3
		if !waits {
			out = append(out, over)
			if rapid.IntRange(0, 3).Draw(t, "between") == 3 {
				out = append(out, between.Draw(t, "deed"))
			}
		}
		for range rapid.IntRange(1, 2).Draw(t, "wants") {
			out = append(out, write(first, y, wanted))
		}
		if waits {
			out = append(out, over)
		}
		out = append(out, deed{Session: first, Kind: "commit", XID: early.XID, Level: early.Level})
		if rapid.IntRange(0, 3).Draw(t, "settle") < 3 {
			out = append(out, deed{Kind: "settle", XID: 2, Yes: rapid.Bool().Draw(t, "yes")})
		}
		return out
	})
}

// Kinds of statements. Those that give up keys and values, and those that want
// them, are most of each kind and not all. The same goes for those that add a parent
// and refer to it, and those by which a child leaves a parent that is then removed.
var (
	anything = []string{"insert", "upsert", "skip", "v", "set", "set", "set all", "key", "delete", "delete", "delete some", "lock", "move", "swap"}
	givesUp  = []string{"delete", "set", "key", "swap", "set all", "delete some", "move", "insert"}
	wants    = []string{"insert", "set", "skip", "upsert", "key", "move", "set all", "delete", "swap"}
	adds     = []string{"upsert", "upsert", "skip", "key", "insert"}
	refers   = []string{"refer", "refer", "refer", "insert", "set"}
	departs  = []string{"delete", "set", "refer", "key", "delete some"}
	removes  = []string{"delete", "delete", "key", "delete some"}
)

// subject is what a statement is about.
type subject struct {
	table, key, key2 int
	value, column    string
}

func subjectGen(e extent) *rapid.Generator[subject] {
	// Small numbers, so that they collide.
	key := rapid.IntRange(1, 5)
	columns := []string{"a", "a", "b", "p", "q"}
	if e.foreignKeys {
		columns = []string{"a", "p", "p", "q"}
	}
	return rapid.Custom(func(t *rapid.T) subject {
		return subject{
			table: rapid.IntRange(0, 2).Draw(t, "table"), key: key.Draw(t, "key"), key2: key.Draw(t, "key 2"),
			value: rapid.SampledFrom([]string{"NULL", "1", "2", "3", "4"}).Draw(t, "value"), column: rapid.SampledFrom(columns).Draw(t, "column"),
		}
	})
}

func (s subject) statement(t *rapid.T, kinds []string) string {
	table, k, k2, x, c := fmt.Sprintf("{s}.t{%d}", s.table), s.key, s.key2, s.value, s.column
	switch rapid.SampledFrom(kinds).Draw(t, "statement") {
	case "insert":
		return fmt.Sprintf("INSERT INTO %s (id, a, b, p, q) VALUES (%d, %s, %d, %d, NULL)", table, k, x, k2, k)
	case "upsert":
		return fmt.Sprintf("INSERT INTO %s (id, a, b) VALUES (%d, %s, %d) ON CONFLICT (id) DO UPDATE SET %s = %s", table, k, x, k2, c, x)
	case "skip":
		return fmt.Sprintf("INSERT INTO %s (id, a) VALUES (%d, %s), (%d, NULL) ON CONFLICT DO NOTHING", table, k, x, k2)
	case "v":
		return fmt.Sprintf("UPDATE %s SET v = v + 1 WHERE id = %d", table, k)
	case "set":
		return fmt.Sprintf("UPDATE %s SET %s = %s WHERE id = %d", table, c, x, k)
	case "refer":
		return fmt.Sprintf("INSERT INTO %[1]s (id, %[2]s) VALUES (%[4]d, %[3]d) ON CONFLICT (id) DO UPDATE SET %[2]s = %[3]d", table, c, k, k2)
	case "set all":
		return fmt.Sprintf("UPDATE %s SET %s = %s + 1 WHERE id >= %d", table, c, c, k)
	case "key":
		return fmt.Sprintf("UPDATE %s SET id = %d WHERE id = %d", table, k2, k)
	case "delete":
		return fmt.Sprintf("DELETE FROM %s WHERE id = %d", table, k)
	case "delete some":
		return fmt.Sprintf("DELETE FROM %s WHERE id <= %d", table, k)
	case "lock":
		return fmt.Sprintf("SELECT * FROM %s WHERE id = %d FOR UPDATE", table, k)
	case "swap":
		return fmt.Sprintf("UPDATE %s SET a = %d - a WHERE id IN (%d, %d)", table, k+k2, k, k2)
	default:
		return fmt.Sprintf("WITH gone AS (DELETE FROM %s WHERE id = %d RETURNING *) INSERT INTO %s (id, a, b) SELECT 6 - id, a, b FROM gone", table, k, table)
	}
}

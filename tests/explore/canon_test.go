package explore

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
)

// unit is the distance between deadlines. A short wait is far less, and longer than every
// pause of the machine, so that whatever is armed is due after it.
const (
	unit      = 10_000 * time.Minute
	shortWait = time.Minute
)

// left out of the canonical form of a machine, each with its reason. Everything else
// that a machine has counts, also what is added to it later.
var leftOut = map[string]string{
	"Machine.cfg":            "the same for all, but for the incarnation, which is in the root",
	"Machine.now":            "every time counts as the distance from now",
	"Machine.start":          "matters to deadlines at Restore, and is in them from then on",
	"Machine.lsn":            "positions count as the distance from the end",
	"Machine.timers":         "the order of what txn.deadline, txn.ask and Progress.Next say",
	"Machine.elsewhere":      "there is one machine",
	"Machine.out":            "the last output",
	"Machine.changed":        "empty between steps",
	"Machine.mayHaveStalled": "empty between steps",
	"Machine.slack":          "empty between steps",
	"Machine.held":           "the sum over the transactions",
	"txn.timer":              "see Machine.timers",
	"txn.held":               "a function of the branches",
	"txn.noted":              "false between steps",
	"txn.mayStall":           "false between steps",
	"txn.asked":              "only makes the next pause longer",
	"leg.tx":                 "the transaction that the leg is reached by",
	"leg.plan":               "the branch's, and fixed per scene",
	"leg.elem":               "the order in a lane: nothing is held back by it, the window is wide",
	"resource.noted":         "false between steps",
	"resource.ready":         "see leg.elem and leg.state",
	"resource.busy":          "see leg.elem and leg.state",
	"waiter.since":           "the order in line, which is that of the list",
	"Branch.Plan":            "fixed per scene",
	"Branch.VoteReason":      "words",
	"Branch.Registered":      "from when delays run; no scene has one",
	"Transaction.Cause":      "words",
	"Transaction.Decided":    "from when delays run; no scene has one",
	"Transaction.Finished":   "see Phase",
	"Transaction.Note":       "words",
	"Progress.Failures":      "only makes the next pause longer, where attempts are not limited",
	"Progress.LastError":     "words",
	"Progress.NotYet":        "for people",
	"Progress.Last":          "for people",
	"Progress.Attention":     "for people",
	"Record.Time":            "see above",
	"Record.Text":            "words",
	"Record.Plan":            "fixed per scene",
}

// canon writes what matters about a value, so that two values with one canonical form
// behave the same from here on.
type canon struct {
	buf  []byte
	now  time.Time
	end  uint64 // position of the newest record
	tail uint64 // how many records may still be lost
}

var timeType = reflect.TypeFor[time.Time]()

// fields caches which fields of a struct count.
var fields = map[reflect.Type][]int{}

func fieldsOf(t reflect.Type) []int {
	if f, ok := fields[t]; ok {
		return f
	}
	f := []int{}
	for i := range t.NumField() {
		if leftOut[t.Name()+"."+t.Field(i).Name] == "" {
			f = append(f, i)
		}
	}
	fields[t] = f
	return f
}

func (c *canon) num(n uint64) { c.buf = binary.AppendUvarint(c.buf, n) }

func (c *canon) value(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // the core has no others
	case reflect.Bool:
		c.num(uint64(map[bool]int{true: 1}[v.Bool()]))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		c.num(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		c.num(v.Uint())
	case reflect.String:
		c.num(uint64(v.Len()))
		c.buf = append(c.buf, v.String()...)
	case reflect.Slice, reflect.Array:
		c.num(uint64(v.Len()))
		for i := range v.Len() {
			c.value(v.Index(i))
		}
	case reflect.Map:
		c.mapping(v)
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			c.num(0)
			return
		}
		c.num(1)
		c.value(v.Elem())
	case reflect.Struct:
		c.structure(v)
	default:
		panic(fmt.Sprintf("no canonical form for %s", v.Type()))
	}
}

// mapping writes the entries in an order that does not depend on the map.
func (c *canon) mapping(v reflect.Value) {
	var entries []string
	for it := v.MapRange(); it.Next(); {
		e := canon{now: c.now, end: c.end, tail: c.tail}
		e.value(it.Key())
		e.value(it.Value())
		entries = append(entries, string(e.buf))
	}
	slices.Sort(entries)
	c.num(uint64(len(entries)))
	for _, e := range entries {
		c.buf = append(c.buf, e...)
	}
}

func (c *canon) structure(v reflect.Value) {
	t := v.Type()
	if t == timeType {
		c.time(v)
		return
	}
	for _, i := range fieldsOf(t) {
		f := v.Field(i)
		switch t.Name() + "." + t.Field(i).Name {
		case "txn.lsn": // what lies further back than the tail is durable in any case
			c.num(min(c.end-f.Uint(), c.tail))
		case "Progress.Attempts": // answers to the first one differ from those to others
			c.num(min(f.Uint(), 2))
		default:
			c.value(f)
		}
	}
}

// time counts in units from now.
func (c *canon) time(v reflect.Value) {
	// An unexported field gives no Interface; wall and ext say the same.
	t := timeOf(v)
	switch {
	case t.IsZero():
		c.num(0)
	case !t.After(c.now):
		c.num(1)
	default:
		c.num(2 + uint64(t.Sub(c.now).Round(unit)/unit))
	}
}

// timeOf reads a time that has no monotonic part and no location of its own.
func timeOf(v reflect.Value) time.Time {
	wall, ext := v.Field(0).Uint(), v.Field(1).Int()
	if wall>>63 != 0 {
		panic("a time with a monotonic part")
	}
	const yearOneToUnix = 62135596800
	if wall == 0 && ext == 0 {
		return time.Time{}
	}
	return time.Unix(ext-yearOneToUnix, int64(wall&(1<<30-1)))
}

// canonical gives the canonical form of a machine whose newest tail records may be lost.
func canonical(m *core.Machine, now time.Time, tail int) string {
	c := canon{now: now, end: m.LSN(), tail: uint64(tail)}
	c.value(reflect.ValueOf(m).Elem())
	return string(c.buf)
}

func canonicalOf(v any, now time.Time) string {
	c := canon{now: now}
	c.value(reflect.ValueOf(v))
	return string(c.buf)
}

// nextDeadline is the next deadline, as it counts in this run, of a transaction that is
// not decided.
func nextDeadline(m *core.Machine, now time.Time) (next time.Time, ok bool) {
	for it := reflect.ValueOf(m).Elem().FieldByName("txs").MapRange(); it.Next(); {
		tx := it.Value().Elem()
		d := timeOf(tx.FieldByName("deadline"))
		undecided := tx.FieldByName("t").FieldByName("Outcome").Uint() == uint64(core.Undecided)
		if undecided && d.After(now) && (!ok || d.Before(next)) {
			next, ok = d, true
		}
	}
	return next, ok
}

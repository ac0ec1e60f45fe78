package tm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// A lock conflict that goes through services stays the same, whatever table, key and
// cycle it names, and an error of another kind never becomes one.
func FuzzLockConflict(f *testing.F) {
	f.Add(uint64(1), "public.t", "1", "")
	f.Add(uint64(0), "", "\xff\x00", "a -> b -> a")
	f.Add(uint64(9), "ü", "deadlock", "\x1b")
	f.Fuzz(func(t *testing.T, counter uint64, table, key, cycle string) {
		e := &tm.LockConflictError{Table: table, Key: key, Deadlock: cycle}
		if counter > 0 {
			e.Holder = xid.New(xid.Parts{Incarnation: 1, Counter: counter})
		}
		got, ok := tm.FindLockConflict(e.GRPCStatus().Err())
		if !ok || got.Holder != e.Holder || (cycle == "") != (got.Deadlock == "") || !errors.Is(got, tm.ErrLockConflict) || errors.Is(got, tm.ErrDeadlock) != (cycle != "") {
			t.Fatalf("%+v became %+v, %v", e, got, ok)
		}
		if p := e.GRPCStatus().Proto(); len(p.GetDetails()) == 0 {
			t.Fatalf("%+v travels without its details", e)
		}
		valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
		if got.Table != valid(table) || got.Key != valid(key) || got.Deadlock != valid(cycle) {
			t.Fatalf("%+v became %+v", e, got)
		}
	})
}

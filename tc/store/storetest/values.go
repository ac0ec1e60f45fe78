package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/handfast/handfast/tc/store"
)

func setValue(t *testing.T, s store.Store, space, name string, v []byte) {
	t.Helper()
	if err := s.SetValue(space, name, v); err != nil {
		t.Fatalf("SetValue: %v", err)
	}
}

func wantValue(t *testing.T, s store.Store, space, name string, want []byte) {
	t.Helper()
	got, err := s.Value(space, name)
	if err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		t.Fatalf("%q in %q is %q (nil: %t), %v, want %q (nil: %t)", name, space, got, got == nil, err, want, want == nil)
	}
}

// listed gives at most limit names with their values.
func listed(t *testing.T, s store.Store, space, from string, limit int) []string {
	t.Helper()
	out := []string{}
	if err := s.ListValues(context.Background(), space, from, func(name string, v []byte) bool {
		if v == nil {
			t.Errorf("%q in %q is listed with nil", name, space)
		}
		out = append(out, fmt.Sprintf("%s=%s", name, v))
		return len(out) < limit
	}); err != nil {
		t.Fatalf("ListValues: %v", err)
	}
	return out
}

func testValues(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	wantValue(t, s, "space", "name", nil)
	setValue(t, s, "space", "name", nil) // to drop what is not there is no fault
	for _, v := range [][]byte{[]byte("one"), []byte("another"), {}, binary, make([]byte, 100_000), nil, []byte("again")} {
		setValue(t, s, "space", "name", v)
		wantValue(t, s, "space", "name", v)
		wantValue(t, s, "space", "nam", nil)
		wantValue(t, s, "space", "name2", nil)
		wantValue(t, s, "spac", "ename", nil)
		s = h.Reopen(t)
		wantValue(t, s, "space", "name", v)
	}
	// What was handed out and in belongs to the caller.
	v := []byte("mine")
	setValue(t, s, "space", "name", v)
	v[0] = 'x'
	got, err := s.Value("space", "name")
	if err != nil {
		t.Fatal(err)
	}
	got[1] = 'x'
	wantValue(t, s, "space", "name", []byte("mine"))
	setValue(t, s, "space", "", []byte("of no name"))
	wantValue(t, s, "space", "", []byte("of no name"))
	// None of it is a transaction, nor one a value.
	if n := len(recovered(t, s)); n != 0 {
		t.Fatalf("%d transactions", n)
	}
	wantKey(t, s, "space\x00name", [35]byte{})
}

func testListValues(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	names := map[string][]string{
		"a":     {"", "\x00", "\x00b", "\x01", "a", "a\x00", "a\x00b", "ab", "b", "é", "\xff", "\xff\xff"},
		"a\x01": {"a", "z"},
		"ab":    {"a", "b"},
		"b":     {"a"},
		"\xff":  {"a"},
	}
	for space, all := range names {
		shuffled := slices.Clone(all)
		slices.Reverse(shuffled)
		for _, name := range shuffled {
			setValue(t, s, space, name, []byte("old"))
			setValue(t, s, space, name, []byte(space))
		}
		setValue(t, s, space, "gone", []byte("gone"))
		setValue(t, s, space, "gone", nil)
	}
	setValue(t, s, "b", "empty", []byte{})
	names["b"] = append(names["b"], "empty")
	for range 2 {
		for space, all := range names {
			slices.Sort(all)
			want := []string{}
			for _, name := range all {
				v := space
				if name == "empty" {
					v = ""
				}
				want = append(want, name+"="+v)
			}
			for i, from := range all {
				if got := listed(t, s, space, from, 100); !slices.Equal(got, want[i:]) {
					t.Fatalf("space %q from %q: %q, want %q", space, from, got, want[i:])
				}
				if got := listed(t, s, space, from, 2); !slices.Equal(got, want[i:min(i+2, len(want))]) {
					t.Fatalf("two of space %q from %q: %q", space, from, got)
				}
			}
			if got := listed(t, s, space, "\xff\xff\xff", 100); len(got) != 0 {
				t.Fatalf("behind all of %q: %q", space, got)
			}
		}
		if got := listed(t, s, "c", "", 100); len(got) != 0 {
			t.Fatalf("in a space of which nobody has heard: %q", got)
		}
		if got := listed(t, s, "a", "aa", 1); !slices.Equal(got, []string{"ab=a"}) {
			t.Fatalf("from a name that is not there: %q", got)
		}
		s = h.Reopen(t)
	}
}

func testValuesSurvive(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	for _, kept := range []int{0, 50, 100} {
		_, records := newScript(s).whole(1)
		apply(t, s, store.Batch{Records: records}, false)
		setValue(t, s, "space", "dropped", []byte("once"))
		setValue(t, s, "space", "replaced", []byte("once"))
		setValue(t, s, "space", "replaced", []byte("twice"))
		setValue(t, s, "space", "dropped", nil)
		setValue(t, s, "space", "empty", []byte{})
		s = h.Crash(t, kept)
		wantValue(t, s, "space", "replaced", []byte("twice"))
		wantValue(t, s, "space", "dropped", nil)
		wantValue(t, s, "space", "empty", []byte{})
		// A value that is set covers what was applied before, like any sync.
		if n := len(recovered(t, s)); n == 0 {
			t.Fatalf("%d %% kept: what was applied before is lost", kept)
		}
	}
}

func testSpaces(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	for _, space := range []string{"", "\x00", "a\x00", "a\x00b", strings.Repeat("a", 10) + "\x00"} {
		if err := s.SetValue(space, "name", []byte{1}); err == nil {
			t.Errorf("set in space %q", space)
		}
		if _, err := s.Value(space, "name"); err == nil {
			t.Errorf("read in space %q", space)
		}
		if err := s.ListValues(context.Background(), space, "", func(string, []byte) bool { return true }); err == nil {
			t.Errorf("listed in space %q", space)
		}
	}
	if got := listed(t, s, "a", "", 10); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

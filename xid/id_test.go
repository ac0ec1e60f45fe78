package xid_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/xid"
)

func sample() xid.Parts {
	return xid.Parts{
		Begin:       time.UnixMilli(1_700_000_000_123),
		Incarnation: 7,
		Store:       xid.StoreID{1, 2, 3, 4, 5, 6, 7, 8},
		Counter:     1<<40 - 1,
		Random:      [12]byte{9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20},
	}
}

func TestIDKeepsItsParts(t *testing.T) {
	t.Parallel()
	want := sample()
	id := xid.New(want)
	got := id.Parts()
	if !got.Begin.Equal(want.Begin) {
		t.Errorf("begin: got %v, want %v", got.Begin, want.Begin)
	}
	got.Begin = want.Begin
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if id.Store() != want.Store || id.Incarnation() != want.Incarnation || !id.Begin().Equal(want.Begin) {
		t.Error("an accessor differs from Parts")
	}
}

func TestIDIsTheSameAfterTextBytesAndJSON(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		id := randomID(r)
		s := id.String()
		if len(s) != xid.TextLen || strings.ToLower(s) != s {
			t.Fatalf("text %q: want %d lower-case characters", s, xid.TextLen)
		}
		if got, err := xid.Parse(s); err != nil || got != id {
			t.Fatalf("Parse(%q) = %v, %v", s, got, err)
		}
		if got, err := xid.FromBytes(id[:]); err != nil || got != id {
			t.Fatalf("FromBytes = %v, %v", got, err)
		}
		b, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		var got xid.ID
		if err := json.Unmarshal(b, &got); err != nil || got != id {
			t.Fatalf("JSON %s: %v, %v", b, got, err)
		}
	}
}

func TestIDSortsByBeginAsBytesAndAsText(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	ids := make([]xid.ID, 500)
	for i := range ids {
		ids[i] = randomID(r)
	}
	slices.SortFunc(ids, func(a, b xid.ID) int { return bytes.Compare(a[:], b[:]) })
	for i := 1; i < len(ids); i++ {
		if ids[i].Begin().Before(ids[i-1].Begin()) {
			t.Fatalf("%v sorts behind a later one", ids[i])
		}
		if ids[i-1].String() >= ids[i].String() {
			t.Fatalf("as text %s is not before %s", ids[i-1], ids[i])
		}
	}
}

func TestParseRefusesWhatIsNoXID(t *testing.T) {
	t.Parallel()
	good := xid.New(sample()).String()
	for name, s := range map[string]string{
		"empty":            "",
		"too short":        good[1:],
		"too long":         good + "0",
		"ten kilobytes":    strings.Repeat("0", 10<<10),
		"upper case":       strings.ToUpper(good),
		"a foreign letter": "z" + good[1:],
		"a line end":       good[:xid.TextLen-1] + "\n",
		"line ends inside": "\r\n" + good[:xid.TextLen-2],
		"all zero":         strings.Repeat("0", xid.TextLen),
		"not UTF-8":        "\xff" + good[1:],
		"a space in front": " " + good[:xid.TextLen-1],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id, err := xid.Parse(s)
			if !errors.Is(err, xid.ErrMalformed) {
				t.Fatalf("got %v, want ErrMalformed", err)
			}
			if !id.IsZero() {
				t.Errorf("an error came with the ID %v", id)
			}
			if len(err.Error()) > 200 {
				t.Errorf("the error repeats the input: %d bytes", len(err.Error()))
			}
			var u xid.ID
			if err := u.UnmarshalText([]byte(s)); s != "" && !errors.Is(err, xid.ErrMalformed) {
				t.Errorf("UnmarshalText: got %v, want ErrMalformed", err)
			}
		})
	}
}

func TestFromBytesRefusesOtherLengthsAndZero(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 34, 35, 36} {
		if _, err := xid.FromBytes(make([]byte, n)); !errors.Is(err, xid.ErrMalformed) {
			t.Errorf("%d zero bytes: got %v, want ErrMalformed", n, err)
		}
	}
}

func TestZeroIDIsEmptyText(t *testing.T) {
	t.Parallel()
	if s := (xid.ID{}).String(); s != "" {
		t.Errorf("got %q", s)
	}
	id := xid.New(sample())
	if err := id.UnmarshalText(nil); err != nil || !id.IsZero() {
		t.Errorf("got %v, %v", id, err)
	}
}

func TestStoreIDIsTheSameAfterText(t *testing.T) {
	t.Parallel()
	want := sample().Store
	if got, err := xid.ParseStoreID(want.String()); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	for _, s := range []string{"", "0102", want.String() + "00", "zz" + want.String()[2:]} {
		if _, err := xid.ParseStoreID(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(xid.New(sample()).String())
	f.Add("")
	f.Add(strings.Repeat("v", xid.TextLen))
	f.Add(strings.Repeat("\n", xid.TextLen))
	f.Fuzz(func(t *testing.T, s string) {
		id, err := xid.Parse(s)
		if err != nil {
			if !id.IsZero() || !errors.Is(err, xid.ErrMalformed) {
				t.Fatalf("Parse(%q) = %v, %v", s, id, err)
			}
			return
		}
		// One text per ID: a second one would escape a comparison of texts.
		if id.String() != s {
			t.Fatalf("%q reads as %q", s, id)
		}
	})
}

func randomID(r *rand.Rand) xid.ID {
	p := xid.Parts{
		Begin:       time.UnixMilli(r.Int64N(1 << 47)),
		Incarnation: r.Uint32(),
		Counter:     r.Uint64(),
	}
	for i := range p.Store {
		p.Store[i] = byte(r.Uint32())
	}
	for i := range p.Random {
		p.Random[i] = byte(r.Uint32())
	}
	return xid.New(p)
}

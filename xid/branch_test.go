package xid_test

import (
	"context"
	"strings"
	"testing"

	"github.com/handfast/handfast/xid"
)

func TestBranchIDIsTheSameAfterText(t *testing.T) {
	t.Parallel()
	seen := make(map[xid.BranchID]bool)
	for range 1000 {
		b := xid.NewBranchID()
		if seen[b] || b == (xid.BranchID{}) {
			t.Fatalf("%v was drawn before, or is zero", b)
		}
		seen[b] = true
		if got, err := xid.ParseBranchID(b.String()); err != nil || got != b {
			t.Fatalf("ParseBranchID(%q) = %v, %v", b, got, err)
		}
	}
}

func TestParseBranchIDRefusesBadInput(t *testing.T) {
	t.Parallel()
	good := xid.NewBranchID().String()
	for _, s := range []string{"", good[1:], good + "0", "g" + good[1:], strings.Repeat("0", 32), strings.Repeat("a", 10<<10)} {
		if b, err := xid.ParseBranchID(s); err == nil || b != (xid.BranchID{}) || len(err.Error()) > 200 {
			t.Errorf("%.50q: got %v, %v", s, b, err)
		}
	}
}

func TestResourceIDIsTheSameAfterText(t *testing.T) {
	t.Parallel()
	const s = "123e4567-e89b-12d3-a456-426614174000"
	r, err := xid.ParseResourceID(s)
	if err != nil || r.String() != s {
		t.Fatalf("got %v, %v", r, err)
	}
	if up, err := xid.ParseResourceID(strings.ToUpper(s)); err != nil || up != r {
		t.Errorf("upper case: got %v, %v", up, err)
	}
}

func TestParseResourceIDRefusesBadInput(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-42661417400",
		"123e4567-e89b-12d3-a456-4266141740000", "123e4567-e89b-12d3-a456_426614174000",
		"g23e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-000000000000",
		"1-3e4567-e89b-12d3-a456-426614174000", strings.Repeat("-", 10<<10),
	} {
		if r, err := xid.ParseResourceID(s); err == nil || r != (xid.ResourceID{}) || len(err.Error()) > 200 {
			t.Errorf("%.50q: got %v, %v", s, r, err)
		}
	}
}

func TestResourceOfIsAUUIDOfItsOwnVersion(t *testing.T) {
	t.Parallel()
	// Other processes and later versions have to find the same one.
	if s := xid.ResourceOf("payments").String(); s != "e6a8c1dc-f629-8cf5-91f9-294a1943f53c" {
		t.Errorf("got %s", s)
	}
	seen := make(map[xid.ResourceID]string)
	for _, name := range []string{"", "payments", "Payments", "payment", "payments ", "paymentss", "\x00", strings.Repeat("x", 1<<20)} {
		r := xid.ResourceOf(name)
		if r != xid.ResourceOf(name) {
			t.Errorf("%.20q has two", name)
		}
		if other, ok := seen[r]; ok {
			t.Errorf("%.20q and %.20q have the same", name, other)
		}
		seen[r] = name
		if s := r.String(); s[14] != '8' || !strings.ContainsRune("89ab", rune(s[19])) {
			t.Errorf("%.20q: %s is not of version 8", name, s)
		}
		if got, err := xid.ParseResourceID(r.String()); err != nil || got != r {
			t.Errorf("%.20q: reads as %v, %v", name, got, err)
		}
	}
}

func TestBranchOfDependsOnBoth(t *testing.T) {
	t.Parallel()
	p := sample()
	a := xid.New(p)
	p.Counter++
	b := xid.New(p)
	if s := xid.BranchOf(a, "hotel").String(); s != "51fc7f89f180c9121442544afd2b649f" {
		t.Errorf("got %s", s)
	}
	seen := make(map[xid.BranchID]bool)
	for _, id := range []xid.ID{{}, a, b} {
		for _, name := range []string{"", "hotel", "Hotel", "flight"} {
			br := xid.BranchOf(id, name)
			if seen[br] || br != xid.BranchOf(id, name) || br == (xid.BranchID{}) {
				t.Errorf("%v, %q: %v", id, name, br)
			}
			seen[br] = true
		}
	}
}

func FuzzParseBranchAndResource(f *testing.F) {
	f.Add("123e4567-e89b-12d3-a456-426614174000")
	f.Add("000102030405060708090a0b0c0d0e0f")
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := xid.ParseBranchID(s); err == nil && b.String() != strings.ToLower(s) {
			t.Fatalf("%q reads as branch %q", s, b)
		}
		if r, err := xid.ParseResourceID(s); err == nil && r.String() != strings.ToLower(s) {
			t.Fatalf("%q reads as resource %q", s, r)
		}
	})
}

func TestContextCarriesTheInnermostXID(t *testing.T) {
	t.Parallel()
	if id, ok := xid.FromContext(context.Background()); ok || !id.IsZero() {
		t.Errorf("an empty context holds %v", id)
	}
	p := sample()
	outer := xid.New(p)
	p.Counter = 1
	inner := xid.New(p)
	ctx := xid.NewContext(context.Background(), outer)
	nested := xid.NewContext(ctx, inner)
	if id, ok := xid.FromContext(nested); !ok || id != inner {
		t.Errorf("nested: got %v, %v", id, ok)
	}
	if id, ok := xid.FromContext(ctx); !ok || id != outer {
		t.Errorf("outer: got %v, %v", id, ok)
	}
	if id, ok := xid.FromContext(xid.NewContext(nested, xid.ID{})); ok || !id.IsZero() {
		t.Errorf("without: got %v, %v", id, ok)
	}
}

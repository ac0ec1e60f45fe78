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

package bench

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestLinesOfServicesAndProcessesAreSaid(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	b := &Bench{out: &out}
	b.Log().With("by", "hotel").Info("booked", "id", 7, "note", "", "error", error(nil))
	worker := LogTo(b.Lines("worker"))
	worker.Info("dies", "error", errors.New("oops"))
	l := b.Lines("piped")
	for _, part := range []string{"in ", "pieces\nand", " more\nwithout end"} {
		if _, err := io.WriteString(l, part); err != nil {
			t.Error(err)
		}
	}
	want := "  booked  by=hotel  id=7\n  worker: dies  error=oops\n  piped: in pieces\n  piped: and more\n"
	if out.String() != want {
		t.Errorf("said\n%s\nwant\n%s", out.String(), want)
	}
}

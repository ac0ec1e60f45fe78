package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// trace is what happened in a run: always as a hash, and as text where it is asked for.
// Two runs of one seed have to have the same hash.
type trace struct {
	hash   uint64
	events int
	keep   bool
	lines  []string
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func newTrace(keep bool) trace { return trace{hash: fnvOffset, keep: keep} }

func (t *trace) bytes(b []byte) {
	h := t.hash
	for _, c := range b {
		h = (h ^ uint64(c)) * fnvPrime
	}
	t.hash = h
}

func (t *trace) text(s string) {
	h := t.hash
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	t.hash = (h ^ 0xff) * fnvPrime
}

func (t *trace) number(n uint64) {
	h := t.hash
	for range 8 {
		h = (h ^ n&0xff) * fnvPrime
		n >>= 8
	}
	t.hash = h
}

// id hashes the part of an XID that differs between those of one run.
func (t *trace) id(id xid.ID) { t.bytes(id[4:31]) }

// add notes one event.
func (t *trace) add(at time.Duration, who, what string, args ...any) {
	t.events++
	t.number(uint64(at))
	t.text(who)
	t.text(what)
	for _, a := range args {
		switch a := a.(type) {
		case int:
			t.number(uint64(a))
		case string:
			t.text(a)
		case xid.ID:
			t.id(a)
		case xid.BranchID:
			t.bytes(a[:])
		case time.Duration:
			t.number(uint64(a))
		case core.Outcome:
			t.number(uint64(a))
		case core.Vote:
			t.number(uint64(a))
		case core.Op:
			t.number(uint64(a))
		case core.Verdict:
			t.number(uint64(a))
		case bool:
			if a {
				t.number(1)
			}
		default:
			t.text(fmt.Sprint(a))
		}
	}
	if t.keep {
		t.lines = append(t.lines, line(at, who, what, args))
	}
}

// line is one event as text.
func line(at time.Duration, who, what string, args []any) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%10.6fs  %-6s %s", at.Seconds(), who, what)
	for _, a := range args {
		b.WriteByte(' ')
		switch a := a.(type) {
		case xid.ID:
			b.WriteString(short(a))
		case xid.BranchID:
			b.WriteString("b" + a.String()[:6])
		case core.Outcome:
			b.WriteString(outcomeNames[a])
		case core.Vote:
			b.WriteString(voteNames[a])
		case core.Op:
			b.WriteString(opNames[a])
		case core.Verdict:
			b.WriteString(verdictNames[a])
		default:
			fmt.Fprint(&b, a)
		}
	}
	return b.String()
}

// short names a transaction of a run: the store, the incarnation and the number that
// the coordinator gave it.
func short(id xid.ID) string {
	if id.IsZero() {
		return "x-"
	}
	p := id.Parts()
	return fmt.Sprintf("x%d.%d.%d", p.Store[0], p.Incarnation, p.Counter)
}

var (
	outcomeNames = map[core.Outcome]string{core.Undecided: "undecided", core.Committed: "COMMITTED", core.RolledBack: "ROLLEDBACK"}
	voteNames    = map[core.Vote]string{core.VoteNone: "none", core.VoteYes: "yes", core.VoteNo: "no", core.VoteWithdrawn: "withdrawn", core.VoteOpen: "open"}
	opNames      = map[core.Op]string{core.OpForward: "forward", core.OpCommit: "commit", core.OpRollback: "rollback"}
	verdictNames = map[core.Verdict]string{core.Unsure: "unsure", core.Done: "done", core.NotYet: "notyet", core.Failed: "failed"}
)

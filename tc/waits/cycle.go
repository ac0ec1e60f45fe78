package waits

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/handfast/handfast/xid"
)

// Cycle is transactions of which each waits for the next, and the last for the
// first.
type Cycle struct {
	Steps  []Step
	Victim xid.ID // the youngest that waits: to be rolled back
}

// Step is one transaction of a cycle.
type Step struct {
	XID   xid.ID
	Child bool // it waits for the next because it has begun it
}

// maxNamed bounds the transactions that a text names, so that it can be kept
// with the decision.
const maxNamed = 10

// String names the cycle, beginning with its oldest transaction.
func (c Cycle) String() string {
	n := len(c.Steps)
	first := 0
	for i := range c.Steps {
		if bytes.Compare(c.Steps[i].XID[:], c.Steps[first].XID[:]) < 0 {
			first = i
		}
	}
	var b strings.Builder
	for i := range min(n, maxNamed) {
		s := c.Steps[(first+i)%n]
		if i == 0 {
			b.WriteString(s.XID.String())
		}
		how := " waits for "
		if s.Child {
			how = " waits for its child "
		}
		b.WriteString(how)
		b.WriteString(c.Steps[(first+i+1)%n].XID.String())
		if i+1 < min(n, maxNamed) {
			b.WriteString(", which")
		}
	}
	if n > maxNamed {
		fmt.Fprintf(&b, ", and so on, back to %s", c.Steps[first].XID)
	}
	return b.String()
}

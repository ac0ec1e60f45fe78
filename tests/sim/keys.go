package sim

import (
	"strings"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// A key stands for one transaction for as long as that is kept, and what was acknowledged
// under it is found by it.

// begunAs sees a transaction begin under a key.
func (o *oracle) begunAs(h *history, r *core.Record) {
	h.key = r.Key
	if strings.HasPrefix(r.Name, "dtm ") {
		h.kind = r.Name
	}
	for _, other := range o.keys[r.Key] {
		switch {
		case other.tc == h.tc && other.forgot:
			h.reused = true // the copy does not know that it was
		case other.tc != h.tc || other.begun == 0:
		case other.expired, other.lost:
			h.reused = true
			o.w.count("keys used again")
		default:
			o.w.fail("%s is begun as %q, and so was %s, which is kept", short(h.id), r.Key, short(other.id))
		}
	}
	o.keys[r.Key] = append(o.keys[r.Key], h)
}

// lookedUp sees what a key is found to stand for.
func (o *oracle) lookedUp(c *coordinator, key string, id xid.ID, found bool) {
	for _, h := range o.keys[key] {
		if h.tc == c && h.begun > 0 && !h.expired && (!found || id != h.id) {
			o.w.fail("%s was begun as %q and is kept, and the key is found to be that of %s", short(h.id), key, short(id))
		}
	}
}

// keyTold sees a client hear that what it asked for under a key is taken care of.
func (o *oracle) keyTold(c *coordinator, key string, id xid.ID) {
	h := o.txs[id]
	if h == nil || h.tc != c || h.key != key {
		o.w.fail("%s is acknowledged as %q, which it was not begun as", short(id), key)
		return
	}
	h.keyTold = true
	if !h.survives(h.begun) && !h.expired {
		o.w.rule("%s is acknowledged as %q before its begin is durable", short(id), key)
	}
}

// findAgain looks for what was begun under a key in the end.
func (h *history) findAgain(p *proc) {
	err := p.request(h.tc, func(q *proc, f *front) error {
		f.find(q, h.key)
		return nil
	})
	if err != nil {
		h.tc.w.fail("%s: nobody answers in the end: %v", h.key, err)
	}
}

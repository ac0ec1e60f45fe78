package adya

import (
	"fmt"
	"slices"
)

// version is a value of a key: a place in the tree that lists make.
type version struct {
	key    Key
	value  int
	parent int  // the value before it in lists; 0: the empty list
	placed bool // parent is known
	over   int  // what it replaced
	writer int  // index of the transaction
	at     int64
	last   bool // of its transaction at this key
}

// at is a version's name.
type at struct {
	key   Key
	value int
}

// versions are all versions of a history.
type versions struct {
	h        *History
	all      map[at]*version
	children map[at][]*version // what replaced it, in the order of values
	found    *findings
}

func readVersions(h *History, f *findings) *versions {
	v := &versions{h: h, all: map[at]*version{}, children: map[at][]*version{}, found: f}
	for i := range h.Txns {
		last := map[Key]*version{}
		for _, op := range h.Txns[i].Ops {
			if op.Write == 0 {
				continue
			}
			n := at{op.Key, op.Write}
			if other := v.all[n]; other != nil {
				f.add(Impossible, "%s is written to %s by %s and by %s", n.name(), op.Key, v.who(other.writer), v.who(i))
				continue
			}
			v.all[n] = &version{key: op.Key, value: op.Write, writer: i, at: op.At}
			last[op.Key] = v.all[n]
		}
		for _, l := range last {
			l.last = true
		}
	}
	for i := range h.Txns {
		for _, op := range h.Txns[i].Ops {
			if op.Write != 0 && len(op.List) > 0 && op.List[len(op.List)-1] != op.Write {
				f.add(Impossible, "%s appended %d to %s, and found %v", v.who(i), op.Write, op.Key, op.List)
			}
			v.place(op.Key, op.List, v.who(i))
		}
	}
	for k, list := range h.Final {
		v.place(k, list, "whoever looked at the end")
	}
	for i := range h.Txns {
		for _, op := range h.Txns[i].Ops {
			ver := v.all[at{op.Key, op.Write}]
			if op.Write == 0 || ver.writer != i {
				continue
			}
			if ver.over = ver.parent; op.Physical {
				ver.over = op.Over
			}
			if op.Physical || ver.placed {
				p := at{op.Key, ver.over}
				v.children[p] = append(v.children[p], ver)
			}
		}
	}
	for _, c := range v.children {
		slices.SortFunc(c, func(a, b *version) int { return a.value - b.value })
	}
	return v
}

func (n at) name() string { return fmt.Sprint(n.value) }

// place learns from a list what each value was built on.
func (v *versions) place(k Key, list []int, who string) {
	before := 0
	for i, value := range list {
		ver := v.all[at{k, value}]
		switch {
		case ver == nil:
			v.found.add(Impossible, "%s read %v in %s: nobody wrote %d", who, list, k, value)
			return
		case slices.Contains(list[:i], value):
			v.found.add(Impossible, "%s read %v in %s: %d is there twice", who, list, k, value)
			return
		case ver.placed && ver.parent != before:
			v.found.add(Impossible, "%s read %v in %s: %d stood behind %d before", who, list, k, value, ver.parent)
			return
		}
		ver.parent, ver.placed = before, true
		before = value
	}
}

// who names a transaction with its outcome.
func (v *versions) who(i int) string {
	t := v.h.Txns[i]
	return fmt.Sprintf("%s (%s)", t.Name, t.Outcome)
}

func (v *versions) outcome(i int) Outcome { return v.h.Txns[i].Outcome }

// undecidedAt tells whether a transaction can't have been decided at that moment.
func (v *versions) undecidedAt(i int, t int64) bool {
	w := v.h.Txns[i]
	return w.Outcome == Committed && t < w.Asked
}

// read gives the version that a list ends with; nil: the empty list, or garbage.
func (v *versions) read(k Key, list []int) *version {
	if len(list) == 0 {
		return nil
	}
	return v.all[at{k, list[len(list)-1]}]
}

// after gives the committed versions that replaced a value.
func (v *versions) after(k Key, value int) (out []*version) {
	for _, c := range v.children[at{k, value}] {
		if v.outcome(c.writer) == Committed {
			out = append(out, c)
		}
	}
	return out
}

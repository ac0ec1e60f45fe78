package adya

import (
	"fmt"
	"slices"
)

// perKind bounds what is reported of one kind: the first ones say enough.
const perKind = 5

// findings collects anomalies.
type findings struct {
	all   []Anomaly
	count map[Kind]int
}

func (f *findings) add(k Kind, format string, args ...any) {
	if f.count[k]++; f.count[k] <= perKind {
		f.all = append(f.all, Anomaly{Kind: k, Text: fmt.Sprintf(format, args...)})
	}
}

// Check finds the anomalies of a history, at most a few of each kind, the worst kinds
// first.
func Check(h *History) []Anomaly {
	f := &findings{count: map[Kind]int{}}
	v := readVersions(h, f)
	v.checkEnd()
	v.checkWrites()
	for i := range h.Txns {
		v.checkReads(i)
		v.checkGroups(i)
	}
	newGraph(v).check()
	slices.SortStableFunc(f.all, func(a, b Anomaly) int { return slices.Index(order, a.Kind) - slices.Index(order, b.Kind) })
	return f.all
}

var order = []Kind{Impossible, DirtyWrite, G0, AbortedUse, AbortedRead, EarlyRead, IntermediateRead, G1c, LostUpdate, GSingle, G2, Fractured, FracturedAcross}

// Kinds are all kinds, the worst ones first.
func Kinds() []Kind { return slices.Clone(order) }

// checkEnd compares what is left with what was decided.
func (v *versions) checkEnd() {
	for i := range v.h.Txns {
		for _, op := range v.h.Txns[i].Ops {
			list, known := v.h.Final[op.Key]
			if op.Write == 0 || !known {
				continue
			}
			switch there := slices.Contains(list, op.Write); {
			case !there && v.outcome(i) == Committed:
				v.found.add(LostUpdate, "%s appended %d to %s, which is %v at the end", v.who(i), op.Write, op.Key, list)
			case there && v.outcome(i) == Aborted && !v.broughtBack(op.Key, op.Write, list):
				v.found.add(Impossible, "%s appended %d to %s, and it is there at the end: %v", v.who(i), op.Write, op.Key, list)
			}
		}
	}
}

// broughtBack tells whether a write behind the value was computed from it: it did not
// replace in the database what stands before it in the list.
func (v *versions) broughtBack(k Key, value int, list []int) bool {
	for i := slices.Index(list, value) + 1; i < len(list); i++ {
		if next := v.all[at{k, list[i]}]; next != nil && next.over != list[i-1] {
			return true
		}
	}
	return false
}

// checkWrites looks at what each write replaced, and at what it was computed from.
func (v *versions) checkWrites() {
	for i := range v.h.Txns {
		for _, op := range v.h.Txns[i].Ops {
			ver := v.all[at{op.Key, op.Write}]
			if op.Write == 0 || ver == nil || ver.writer != i {
				continue
			}
			if under := v.all[at{op.Key, ver.over}]; under != nil && under.writer != i {
				w := under.writer
				switch {
				case v.outcome(w) == Aborted:
					v.found.add(DirtyWrite, "%s wrote %d to %s over %d of %s", v.who(i), op.Write, op.Key, under.value, v.who(w))
				case v.undecidedAt(w, op.At):
					v.found.add(DirtyWrite, "%s wrote %d to %s over %d of %s, which asked for its commit later", v.who(i), op.Write, op.Key, under.value, v.who(w))
				}
			}
			if from := v.all[at{op.Key, ver.parent}]; from != nil && ver.placed && ver.parent != ver.over &&
				v.outcome(from.writer) == Aborted && v.outcome(i) == Committed {
				v.found.add(AbortedUse, "%s wrote %d to %s, computed from %d of %s", v.who(i), op.Write, op.Key, from.value, v.who(from.writer))
			}
		}
	}
	v.checkForks()
}

// checkForks finds committed transactions that computed what they wrote from the same
// version.
func (v *versions) checkForks() {
	first := map[at]*version{}
	for i := range v.h.Txns {
		for _, op := range v.h.Txns[i].Ops {
			ver := v.all[at{op.Key, op.Write}]
			if op.Write == 0 || ver == nil || ver.writer != i || !ver.placed || v.outcome(i) != Committed {
				continue
			}
			from := at{op.Key, ver.parent}
			if other := first[from]; other == nil {
				first[from] = ver
			} else if other.writer != i {
				v.found.add(LostUpdate, "%s and %s both wrote to %s on top of %d: %d and %d",
					v.who(other.writer), v.who(i), op.Key, ver.parent, other.value, ver.value)
			}
		}
	}
}

// checkReads looks at each read of a transaction by itself.
func (v *versions) checkReads(i int) {
	own := map[Key]Op{}
	for _, op := range v.h.Txns[i].Ops {
		if op.Write != 0 {
			own[op.Key] = op
			continue
		}
		mine := own[op.Key]
		undone := v.outcome(i) != Committed && op.Local != mine.Local
		hidden := mine.Hidden && op.Local != mine.Local
		switch there := slices.Contains(op.List, mine.Write); {
		case mine.Write == 0:
		case hidden && there:
			v.found.add(Impossible, "%s sees its own %d in %s, although that is only prepared: %v", v.who(i), mine.Write, op.Key, op.List)
		case !hidden && !undone && !there:
			v.found.add(Impossible, "%s does not see its own %d in %s: %v", v.who(i), mine.Write, op.Key, op.List)
		}
		ver := v.read(op.Key, op.List)
		if ver == nil || ver.writer == i {
			continue
		}
		w := ver.writer
		switch {
		case v.outcome(w) == Aborted:
			v.found.add(AbortedRead, "%s read %d of %s in %s", v.who(i), ver.value, v.who(w), op.Key)
		case v.undecidedAt(w, op.At):
			v.found.add(EarlyRead, "%s read %d of %s in %s, before that one asked for its commit", v.who(i), ver.value, v.who(w), op.Key)
		}
		if !ver.last && v.outcome(w) == Committed {
			v.found.add(IntermediateRead, "%s read %d in %s, which is not the last that %s wrote there", v.who(i), ver.value, op.Key, v.who(w))
		}
	}
}

// checkGroups looks for transactions that a group of reads sees in part.
func (v *versions) checkGroups(i int) {
	groups := map[int][]Op{}
	for _, op := range v.h.Txns[i].Ops {
		if op.Write == 0 && op.Group != 0 {
			groups[op.Group] = append(groups[op.Group], op)
		}
	}
	for _, reads := range groups {
		for _, seen := range reads {
			for _, value := range seen.List {
				if ver := v.all[at{seen.Key, value}]; ver != nil && ver.writer != i && v.outcome(ver.writer) == Committed {
					v.checkPart(i, ver, reads)
				}
			}
		}
	}
}

// checkPart looks for the other writes of a transaction of which one was seen.
func (v *versions) checkPart(i int, seen *version, reads []Op) {
	for _, op := range v.h.Txns[seen.writer].Ops {
		if op.Write == 0 {
			continue
		}
		for _, r := range reads {
			if r.Key != op.Key || slices.Contains(r.List, op.Write) {
				continue
			}
			kind := Fractured
			if r.Key.DB != seen.key.DB {
				kind = FracturedAcross
			}
			v.found.add(kind, "%s sees %d of %s in %s, and not its %d in %s: %v",
				v.who(i), seen.value, v.who(seen.writer), seen.key, op.Write, r.Key, r.List)
		}
	}
}

package adya_test

import (
	"slices"
	"testing"

	"github.com/handfast/handfast/tests/histories/adya"
)

func key(row string) adya.Key {
	return adya.Key{DB: row[:1], Row: row[1:]} // "ax" is x in a
}

func read(row string, list ...int) adya.Op { return adya.Op{Key: key(row), List: list} }

// wrote appends the last value of the list.
func wrote(row string, list ...int) adya.Op {
	return adya.Op{Key: key(row), List: list, Write: list[len(list)-1]}
}

// later is in the next local transaction.
func later(op adya.Op) adya.Op { op.Local = 1; return op }

// hidden is a write in a local transaction that is prepared.
func hidden(op adya.Op) adya.Op { op.Hidden = true; return op }

func at(t int64, op adya.Op) adya.Op { op.At = t; return op }

// over makes known what a write replaced.
func over(value int, op adya.Op) adya.Op {
	op.Over, op.Physical = value, true
	return op
}

func together(ops ...adya.Op) []adya.Op {
	for i := range ops {
		ops[i].Group = 1
	}
	return ops
}

func committed(name string, ops ...adya.Op) adya.Txn {
	return adya.Txn{Name: name, Outcome: adya.Committed, Ops: ops}
}

func aborted(name string, ops ...adya.Op) adya.Txn {
	return adya.Txn{Name: name, Outcome: adya.Aborted, Ops: ops}
}

func asked(t int64, tx adya.Txn) adya.Txn { tx.Asked = t; return tx }

// Each history is as small as its anomaly allows, and stands beside the one that is
// just not it.
func TestEachAnomalyIsFoundInItsSmallestHistory(t *testing.T) {
	t.Parallel()
	type kinds []adya.Kind
	for name, tt := range map[string]struct {
		want  kinds
		txns  []adya.Txn
		final map[adya.Key][]int
	}{
		"nothing": {},
		"one after the other": {nil, []adya.Txn{
			committed("A", wrote("ax", 1), wrote("ay", 1)), committed("B", read("ax", 1), wrote("ax", 1, 2), wrote("ay", 1, 2))}, nil},
		"write cycle": {kinds{adya.G0}, []adya.Txn{
			committed("A", wrote("ax", 1), wrote("ay", 2, 1)), committed("B", wrote("ax", 1, 2), wrote("ay", 2))}, nil},
		"write over what is rolled back": {kinds{adya.DirtyWrite}, []adya.Txn{
			aborted("A", wrote("ax", 1)), committed("B", wrote("ax", 1, 2))}, nil},
		"write over what is undecided": {kinds{adya.DirtyWrite}, []adya.Txn{
			asked(9, committed("A", at(1, wrote("ax", 1)))), asked(5, committed("B", at(2, wrote("ax", 1, 2))))}, nil},
		"write over what may be decided": {nil, []adya.Txn{
			asked(2, committed("A", at(1, wrote("ax", 1)))), asked(5, committed("B", at(3, wrote("ax", 1, 2))))}, nil},
		"write over its own":      {nil, []adya.Txn{aborted("A", wrote("ax", 1), wrote("ax", 1, 2))}, nil},
		"aborted read":            {kinds{adya.AbortedRead}, []adya.Txn{aborted("A", wrote("ax", 1)), committed("B", read("ax", 1))}, nil},
		"aborted read of its own": {nil, []adya.Txn{aborted("A", wrote("ax", 1), read("ax", 1))}, nil},
		"early read": {kinds{adya.EarlyRead}, []adya.Txn{
			asked(9, committed("A", at(1, wrote("ax", 1)))), asked(20, committed("B", at(2, read("ax", 1))))}, nil},
		"intermediate read": {kinds{adya.IntermediateRead, adya.GSingle}, []adya.Txn{
			committed("A", wrote("ax", 1), wrote("ax", 1, 2)), committed("B", read("ax", 1))}, nil},
		"circular information flow": {kinds{adya.G1c}, []adya.Txn{
			committed("A", wrote("ax", 1), read("ay", 2)), committed("B", wrote("ay", 2), read("ax", 1))}, nil},
		"lost update": {kinds{adya.LostUpdate, adya.G2}, []adya.Txn{
			committed("A", read("ax"), wrote("ax", 1)), committed("B", read("ax"), wrote("ax", 2))}, nil},
		"lost update, overwritten at the end": {kinds{adya.LostUpdate}, []adya.Txn{committed("A", wrote("ax", 1))},
			map[adya.Key][]int{key("ax"): nil}},
		"an update that was rolled back is not lost": {nil, []adya.Txn{aborted("A", wrote("ax", 1)), committed("B", wrote("ax", 2))},
			map[adya.Key][]int{key("ax"): {2}}},
		"an update that was rolled back stays": {kinds{adya.Impossible}, []adya.Txn{aborted("A", wrote("ax", 1))},
			map[adya.Key][]int{key("ax"): {1}}},
		"computed from what was rolled back": {kinds{adya.AbortedUse, adya.AbortedRead}, []adya.Txn{
			aborted("A", over(0, wrote("ax", 1))), committed("B", read("ax", 1), over(0, wrote("ax", 1, 2)))},
			map[adya.Key][]int{key("ax"): {1, 2}}},
		"computed from all that was rolled back": {kinds{adya.AbortedUse, adya.AbortedRead}, []adya.Txn{
			aborted("A", over(0, wrote("ax", 1)), over(1, wrote("ax", 1, 2))), committed("B", read("ax", 1, 2), over(0, wrote("ax", 1, 2, 3)))},
			map[adya.Key][]int{key("ax"): {1, 2, 3}}},
		"computed from what is old": {kinds{adya.LostUpdate, adya.GSingle}, []adya.Txn{
			committed("A", over(0, wrote("ax", 1))), committed("B", read("ax"), over(1, wrote("ax", 2)))}, nil},
		"written over by a fork": {kinds{adya.DirtyWrite, adya.LostUpdate}, []adya.Txn{
			asked(9, committed("A", at(1, over(0, wrote("ax", 1))))), asked(5, committed("B", at(2, over(1, wrote("ax", 2)))))}, nil},
		"read, and overtaken": {kinds{adya.GSingle}, []adya.Txn{
			committed("A", read("ax"), wrote("ax", 2, 1)), committed("B", wrote("ax", 2))}, nil},
		"read skew": {kinds{adya.GSingle}, []adya.Txn{
			committed("A", wrote("ax", 1), wrote("ay", 1)), committed("B", read("ax"), read("ay", 1))}, nil},
		"write skew": {kinds{adya.G2}, []adya.Txn{
			committed("A", read("ax"), wrote("ay", 1)), committed("B", read("ay"), wrote("ax", 2))}, nil},
		"write skew of which half was rolled back": {nil, []adya.Txn{
			committed("A", read("ax"), wrote("ay", 1)), aborted("B", read("ay"), wrote("ax", 2))}, nil},
		"write skew of three": {kinds{adya.G2}, []adya.Txn{
			committed("A", read("ax"), wrote("ay", 1)), committed("B", read("ay"), wrote("az", 2)), committed("C", read("az"), wrote("ax", 3))}, nil},
		"fractured": {kinds{adya.GSingle, adya.Fractured}, []adya.Txn{
			committed("A", wrote("ax", 1), wrote("ay", 2)), committed("B", together(read("ax", 1), read("ay"))...)}, nil},
		"fractured over databases": {kinds{adya.GSingle, adya.FracturedAcross}, []adya.Txn{
			committed("A", wrote("ax", 1), wrote("by", 2)), committed("B", together(read("by"), read("ax", 1))...)}, nil},
		"not of one moment": {kinds{adya.GSingle}, []adya.Txn{
			committed("A", wrote("ax", 1), wrote("ay", 2)), committed("B", read("ax", 1), read("ay"))}, nil},
		"a value of nobody":                             {kinds{adya.Impossible}, []adya.Txn{committed("A", read("ax", 7))}, nil},
		"a value twice":                                 {kinds{adya.Impossible}, []adya.Txn{committed("A", wrote("ax", 1)), committed("B", read("ax", 1, 1))}, nil},
		"two orders":                                    {kinds{adya.Impossible}, []adya.Txn{committed("A", wrote("ax", 1)), committed("B", wrote("ax", 1, 2)), committed("C", read("ax", 2, 1))}, nil},
		"blind in the same local transaction":           {kinds{adya.Impossible}, []adya.Txn{aborted("A", wrote("ax", 1), read("ax"))}, nil},
		"blind to its own in another local transaction": {kinds{adya.Impossible}, []adya.Txn{committed("A", wrote("ax", 1), later(read("ax")))}, nil},
		"blind to its own that is prepared": {nil, []adya.Txn{
			committed("A", hidden(wrote("ax", 1)), later(read("ax"))), committed("B", read("ax", 1))}, nil},
		"sees its own that is prepared":                     {kinds{adya.Impossible}, []adya.Txn{committed("A", hidden(wrote("ax", 1)), later(read("ax", 1)))}, nil},
		"blind to its own in the transaction that prepares": {kinds{adya.Impossible}, []adya.Txn{committed("A", hidden(wrote("ax", 1)), read("ax"))}, nil},
		"undone before its next local transaction":          {nil, []adya.Txn{aborted("A", wrote("ax", 1), later(read("ax")))}, nil},
		"blind to its own":                                  {kinds{adya.Impossible}, []adya.Txn{committed("A", wrote("ax", 1), read("ax"))}, nil},
		"one value, two who":                                {kinds{adya.Impossible}, []adya.Txn{committed("A", wrote("ax", 1)), committed("B", wrote("ax", 1))}, nil},
	} {
		var got kinds
		for _, a := range adya.Check(&adya.History{Txns: tt.txns, Final: tt.final}) {
			if !slices.Contains(got, a.Kind) {
				got = append(got, a.Kind)
			}
			if a.Text == "" {
				t.Errorf("%s: %s without a word", name, a.Kind)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: found %q, want %q\n%v", name, got, tt.want, adya.Check(&adya.History{Txns: tt.txns, Final: tt.final}))
		}
	}
}

// A cycle is told with everybody who is in it, and why each comes after the one before.
func TestACycleIsToldInWords(t *testing.T) {
	t.Parallel()
	found := adya.Check(&adya.History{Txns: []adya.Txn{
		committed("T1", read("ax"), wrote("ay", 1)), committed("T2", read("ay"), wrote("ax", 2)),
	}})
	if len(found) != 1 {
		t.Fatalf("got %v", found)
	}
	const want = "G2, write skew: T1 read [] in a.x, which T2 then replaced by 2; T2 read [] in a.y, which T1 then replaced by 1"
	if got := found[0].String(); got != want || !slices.Equal(found[0].Txns, []string{"T1", "T2"}) {
		t.Errorf("got %s, of %v, want %s", got, found[0].Txns, want)
	}
}

package histories

import (
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/tests/histories/adya"
)

// use is a row of the table of docs/guarantees.md at one level: how transactions and
// readers go about it, and what must not be found then.
type use struct {
	name  string
	level pgx.TxIsoLevel
	// reads is how transactions read; empty: they only write.
	reads form
	// computes makes them write what they computed from a read, and not append.
	computes bool
	// looks is how those read who are in no transaction; empty: there are none.
	looks form
	// modes are those of the local transactions of global ones.
	modes modes
	// single keeps each transaction to one local one.
	single bool
	never  []adya.Kind
}

// modes are what a global transaction is made of.
type modes uint8

const (
	onlyAT modes = iota
	onlyXA
	bothModes // each local transaction by lot
)

// String says what a history is of.
func (m modes) String() string {
	return map[modes]string{onlyAT: "in AT mode", onlyXA: "in XA mode", bothModes: "in both modes"}[m]
}

// never, whatever the use is.
var always = []adya.Kind{adya.Impossible, adya.DirtyWrite, adya.G0}

// clean are the columns "dirty read" and, of one version, "sees part of a transaction".
var clean = []adya.Kind{adya.AbortedUse, adya.AbortedRead, adya.EarlyRead, adya.IntermediateRead}

func join(lists ...[]adya.Kind) (all []adya.Kind) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// uses are all rows, at all levels.
func uses() []use { return slices.Concat(usesOfAT(), usesOfXA(), usesOfBoth()) }

func usesOfAT() (all []use) {
	lost := []adya.Kind{adya.LostUpdate}
	for _, level := range levels {
		// UPDATE in place loses nothing, whoever looks on.
		all = append(all,
			use{name: "plain SELECT", level: level, looks: plain, never: join(always, lost)},
			use{name: "<table>_committed", level: level, looks: committedView, never: join(always, lost, clean, []adya.Kind{adya.Fractured})},
			use{name: "plain SELECT, UPDATE", level: level, reads: plain, never: join(always, lost)},
			use{name: "settled(t) FOR UPDATE, then a write", level: level, reads: locked, computes: true, never: join(always, lost, clean, []adya.Kind{adya.G1c})},
		)
		asks := use{name: "settled(t)", level: level, looks: settled, never: join(always, lost, clean)}
		if level == ser {
			asks.never = join(always, lost, []adya.Kind{adya.AbortedUse})
		}
		computed := use{name: "plain SELECT, then a write", level: level, reads: plain, computes: true, never: always}
		if level != rc {
			computed.never = join(always, lost, []adya.Kind{adya.AbortedUse})
		}
		all = append(all, asks, computed)
	}
	return append(all, use{
		name: "plain SELECT, then a write, one local transaction", level: ser, reads: plain, computes: true, single: true,
		never: join(always, lost, []adya.Kind{adya.AbortedUse, adya.GSingle, adya.G2}),
	})
}

// usesOfXA are the rows of the table for XA: all global transactions that write are in XA
// mode, and to everybody else that is an open transaction of Postgres.
func usesOfXA() (all []use) {
	lost, cycles := []adya.Kind{adya.LostUpdate}, []adya.Kind{adya.GSingle, adya.G2}
	// What is seen is decided, so what rests on it is decided later: dependencies go one way.
	open := join(always, clean, []adya.Kind{adya.G1c})
	for _, level := range levels {
		computed := use{name: "XA: plain SELECT, then a write", level: level, modes: onlyXA, reads: plain, computes: true, looks: plain, never: open}
		if level != rc {
			computed.never = join(open, lost)
		}
		all = append(all, computed,
			use{name: "XA: plain SELECT, UPDATE", level: level, modes: onlyXA, reads: plain, looks: plain, never: join(open, lost)},
			use{name: "XA: plain SELECT, of one branch each", level: level, modes: onlyXA, looks: plain, single: true,
				never: join(open, lost, cycles, []adya.Kind{adya.Fractured})},
			use{name: "XA: SELECT FOR UPDATE, then a write", level: level, modes: onlyXA, reads: kept, computes: true, never: join(open, lost, cycles)},
		)
	}
	return append(all, use{
		name: "XA: plain SELECT, then a write, one local transaction", level: ser, modes: onlyXA, reads: plain, computes: true, single: true,
		never: join(open, lost, cycles),
	})
}

// usesOfBoth are those of AT with branches of both modes in one transaction, and in others
// on the same rows.
func usesOfBoth() (all []use) {
	for _, u := range usesOfAT() {
		switch u.name {
		case "<table>_committed": // the prepared half comes a moment before the other one
			u.never = slices.DeleteFunc(u.never, func(k adya.Kind) bool { return k == adya.Fractured })
		case "plain SELECT": // it is in the next one
			continue
		case "plain SELECT, UPDATE":
			u.looks = plain
		}
		u.name, u.modes = "AT and XA: "+u.name, bothModes
		all = append(all, u)
	}
	return all
}

// played are those of a short run, in which those with XA take turns, or of a longer one.
func played(long bool) []use {
	if long {
		return uses()
	}
	all, r := usesOfAT(), newRand(4263)
	for _, u := range slices.Concat(usesOfXA(), usesOfBoth()) {
		if r.IntN(len(levels)) == 0 {
			all = append(all, u)
		}
	}
	return all
}

package histories

import (
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
	// single keeps each transaction to one local one.
	single bool
	never  []adya.Kind
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
func uses() (all []use) {
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

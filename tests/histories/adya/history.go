package adya

import "fmt"

// Key is a row, or whatever has a value of its own.
type Key struct {
	DB  string
	Row string
}

// String gives "database.row".
func (k Key) String() string {
	if k.DB == "" {
		return k.Row
	}
	return k.DB + "." + k.Row
}

// Op is one read or write that was answered.
type Op struct {
	Key Key
	// Write is the value that was appended; 0: it is a read.
	Write int
	// List is what was read or, after a write, what is there now, with the new value
	// at its end. It may be left out for a write that some read shows.
	List []int
	// Over is the value that a write replaced, as the database says; 0: the empty list. It
	// differs from the one before it in List where a client computed what it wrote. Without
	// Physical it is not known, and taken from List.
	Over     int
	Physical bool
	// At is when the answer was there, by a clock that all share.
	At int64
	// Local is which local transaction of the transaction it was in. One that comes after
	// the rollback of the transaction sees its writes undone.
	Local int
	// Hidden tells of a write that nobody sees before the commit, its own transaction
	// included: its local transaction is prepared, and others of the same transaction meet
	// what was there before.
	Hidden bool
	// Group is the same for reads of one transaction that ought to be of one moment:
	// those of a statement, or of a snapshot. 0: of none.
	Group int
}

// Outcome is how a transaction ended.
type Outcome uint8

// The outcomes. What nobody knows is found in what others read, or does not matter.
const (
	Committed Outcome = iota + 1
	Aborted
	Unknown
)

// String gives it in words.
func (o Outcome) String() string {
	return map[Outcome]string{Committed: "committed", Aborted: "rolled back", Unknown: "of unknown outcome"}[o]
}

// Txn is a transaction, or a reader that is in none.
type Txn struct {
	Name    string
	Outcome Outcome
	// Asked is when the commit was asked for, by the same clock as At. Before that it
	// can't have been decided. It does not matter for what was rolled back.
	Asked int64
	Ops   []Op
}

// History is what happened to some keys, from their beginning, when they were empty.
type History struct {
	Txns []Txn
	// Final is what was there when all had ended.
	Final map[Key][]int
}

// Kind is an anomaly.
type Kind string

// The kinds. Cycles are of dependencies: ww, a version that replaces another; wr, a read
// of a version; rw, a read of a version that another one then replaced.
const (
	// DirtyWrite (P0): a version was built on one that was undecided, or rolled back.
	DirtyWrite Kind = "dirty write"
	// G0: a cycle of ww.
	G0 Kind = "G0, write cycle"
	// AbortedUse is an aborted read of a row that the reader then wrote, computed from it.
	AbortedUse Kind = "write computed from what was rolled back"
	// AbortedRead (G1a): what was read was rolled back.
	AbortedRead Kind = "G1a, aborted read"
	// EarlyRead (P1): what was read was undecided.
	EarlyRead Kind = "read of what was undecided"
	// IntermediateRead (G1b): what was read was not the last of its transaction.
	IntermediateRead Kind = "G1b, intermediate read"
	// G1c: a cycle of ww and wr.
	G1c Kind = "G1c, circular information flow"
	// LostUpdate (P4): two transactions built on one version, or a value is gone.
	LostUpdate Kind = "P4, lost update"
	// GSingle: a cycle with one rw. All lost updates and fractured reads that others
	// rest on are one, too.
	GSingle Kind = "G-single, read skew"
	// G2: a cycle with several rw, such as write skew.
	G2 Kind = "G2, write skew"
	// Fractured is a read of a part of a transaction, in one group.
	Fractured Kind = "fractured read"
	// FracturedAcross is the same over several databases.
	FracturedAcross Kind = "fractured read over databases"
	// Impossible is what no order of transactions explains: a value that nobody wrote, or
	// that is there twice, or behind another one than before; a transaction that
	// does not see its own write; a rolled back value that stays.
	Impossible Kind = "impossible"
)

// Anomaly is one that was found.
type Anomaly struct {
	Kind Kind
	Txns []string // who takes part
	Text string   // the story, in words
}

// String gives all of it.
func (a Anomaly) String() string { return fmt.Sprintf("%s: %s", a.Kind, a.Text) }

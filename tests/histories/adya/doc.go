// Package adya finds the anomalies of transactions in a history of what they read and
// wrote, in the manner of Elle: from values alone, without looking inside a database.
//
//	every write appends a value that   ┐
//	nobody else writes, to a list      │     order of versions    dependencies
//	every read gives the whole list    ├──►  of each key       ──► ww, wr, rw  ──► cycles
//	who committed, who was rolled back ┘         │
//	                                             └──► aborted, intermediate, early and
//	                                                  fractured reads, lost updates
//
// A list is its own history: what stands before a value is what its writer built on. So
// the order of versions is read and not guessed, for writes that append in the database
// ("v || 7") and for those that a client computes from what it has read.
//
// The names are those of Adya ("Weak Consistency", 1999), with P0 and P4 of Berenson and
// others (1995) and the fractured reads of Bailis and others (2014). What is called dirty
// here goes further than theirs: a version is undecided until its transaction has asked
// for its commit, so that reading or overwriting it before that is an anomaly even where
// it is committed later. Nobody could have known.
package adya

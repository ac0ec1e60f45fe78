// Package disk has no code but tests: each plays a transaction against the real
// coordinator, whose real store is on a disk in memory that fails in some way, and then
// looks at what everybody holds and was told.
//
//	service: callers, databases, handlers, books of all that was told
//	   |                                      |
//	   |  gRPC, and DTM's HTTP, on loopback   '--- judge
//	  gate   cut when the power goes
//	   |
//	coordinator (package tc) --- pebblestore --- drive --- vfs.MemFS
//	   a life: from start to power loss            |       knows what was synced
//	   or stop; then the next one                  fault: power loss, failed call, lie
//
// A run is one scenario: a transaction of a mode, or of all of them, or of DTM's client,
// also with somebody who refuses. The n-th call to the file system goes wrong, for each n
// until the scenario ends before it comes so far. Participants and callers are models
// that live through it all; they speak the real protocol with the real client.
//
//	scenario   what is called, and what is there if it is committed
//	service    who takes part: package handlers behind a fence in memory, databases
//	           that register, vote and settle, participants behind DTM's barrier
//	drive      the disk, and what goes wrong with it
//	world      lives of a coordinator, one after the other, at one address
//	judge      outcome = what was told = what is held; each effect once, or undone
//	           once; no branch, submission or outcome forgotten; nothing unfinished
//
// Calls that change something are made one after the other, and nothing more is made
// after the power went, so whatever anybody hears afterwards has to be on the disk.
//
// By default some points are tried, all of them with
//
//	go test ./tests/disk -disk.all -timeout 2h
//
// which takes half an hour and, as what a failed store leaves stays until the process
// ends, some 10 GB.
//
// A failure names its point, and how to repeat it alone. That is not bit for bit: who is
// quicker is up to the scheduler.
package disk

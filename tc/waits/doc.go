// Package waits knows which global transaction waits for which, over all
// shards, services and databases of one coordinator, and finds those that wait
// for each other.
//
//	X ── a WaitFor of X that is unanswered ──► its holder
//	P ── P began C, and is called back ──────► its child C
//
// It is pure: no goroutine, no clock, no I/O. The engine owns it under a mutex
// and carries out what it says. Nothing in it is durable. After a restart the
// clients send their waits again, and an edge that is missing or stale can only
// delay a rollback or make a needless one.
package waits

// Package storetest is the suite that every store has to pass.
//
//	Run(t, open) ─► each test ─► open(t) ─► Harness
//	                                          ├─ Reopen: close, open again
//	                                          └─ Crash(kept): power loss, open again
//
// It judges a store by what its interface promises: what was synced survives,
// what survives is a prefix, nothing is torn, positions grow for ever.
package storetest

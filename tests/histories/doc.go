// Package histories records what many clients are told while everything goes wrong, and
// lets a checker say whether one sane system could have told them that.
//
//	outcomes    clients of one XID at the same time ──► coordinator ◄── killed, its power cut
//	            begin, register, vote, commit,            │
//	            roll back, get, wait                      ▼
//	            calls, answers, silence ──► porcupine: one order of all of them, per XID
//
//	gids        DTM's clients of one gid, over HTTP ──► coordinator ◄── killed, its power cut
//	            prepare, register, submit, abort,         │
//	            query; what its branches are called       ▼
//	            the same ──► porcupine: one order of all of them, per gid
//
//	isolation   global transactions, plain sessions ──► Postgres, two databases
//	            append to lists, read them                │
//	            every read and write with its list ──► adya: which anomalies are in there,
//	                                                   and does docs/guarantees.md allow them?
//
// A checker that finds nothing shows nothing, so each of them is also given systems
// with a planted fault, and has to find it.
package histories

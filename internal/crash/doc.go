// Package crash has no code but tests: each kills a real process with SIGKILL, at
// every record that the coordinator (TC) writes and at every message of a
// participant or a caller, and then looks at what is in the databases.
//
//	caller ------- HTTP, with XID or identity -------> participant --- Postgres a, b
//	   |                                                 ^      |
//	   '---- gRPC ----> TC ---- calls, settle -----------'------'
//	         or DTM's HTTP
//
//	one of the three is a process of its own, and dies:
//	   TC            at its n-th record: before it is written, after, when it is forced;
//	                 with DTM's API also just before, on a disk that takes its time
//	   participant   at its n-th message: before it is sent, after, when one has come
//	   caller        the same, and nobody starts it again
//
// n goes from 1 until the transaction ends with nobody dead. Then, each time, the
// transaction has ended, its outcome is what the caller was told, every effect is
// there once or undone once, and nothing undecided is left. One transaction per mode,
// one of all modes together, and each of them also with somebody who refuses.
//
// Over DTM's API there are callers that do by hand what DTM's client does, careful ones:
// after a lost answer they say the same again, or ask "query", which has to tell the same
// in the end. Participants guard themselves as DTM's barrier does, with rows of their own.
// There is never more than one transaction for a gid, also where two callers name it at
// the same time, and who says no is undone, too.
//
// By default some of these are tried; all of them, about 1,600 deaths, with
//
//	go test ./internal/crash -crash.all
package crash

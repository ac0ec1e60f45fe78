// Package crash has no code but tests: each kills a real process with SIGKILL, at
// every record that the coordinator (TC) writes and at every message of a
// participant or a caller, and then looks at what is in the databases.
//
//	caller ------- HTTP, with XID or identity -------> participant --- Postgres a, b
//	   |                                                 ^      |
//	   '---- gRPC ----> TC ---- calls, settle -----------'------'
//
//	one of the three is a process of its own, and dies:
//	   TC            at its n-th record: before it is written, after, when it is forced
//	   participant   at its n-th message: before it is sent, after, when one has come
//	   caller        the same, and nobody starts it again
//
// n goes from 1 until the transaction ends with nobody dead. Then, each time, the
// transaction has ended, its outcome is what the caller was told, every effect is
// there once or undone once, and nothing undecided is left. One transaction per mode,
// one of all modes together, and each of them also with somebody who refuses.
//
// By default some of these are tried; all of them, about a thousand deaths, with
//
//	go test ./internal/crash -crash.all
package crash

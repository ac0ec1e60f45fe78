// Package pgserver finds or fetches PostgreSQL and runs a private server for as
// long as its process lives. The demo and the tests use it, so that neither
// needs anything installed.
//
//	Find: PATH ─► /usr/lib/postgresql/*/bin ─► Homebrew, EDB, Postgres.app
//	  │ none                                        │ found
//	  ▼                                             ▼
//	embedded-postgres fetches once ──────────► Start: initdb, postgres
//	                                               │ temp dir (of tests: in memory), free port, 127.0.0.1
//	     Stop / Kill / Restart ◄───────────────────┤
//	     StartReplica: a hot standby beside it ◄───┤
//	     parent dies ──► a watchdog stops the server and removes the directory
//	                     (Windows: the next Start removes the directory)
//
// PostgreSQL refuses to run as root. As root the server runs under the user
// "postgres", or "nobody" where there is none.
package pgserver

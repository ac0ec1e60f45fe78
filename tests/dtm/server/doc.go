// Package server runs a coordinator for tests of DTM's clients: Handfast with its
// front for them or, to compare, DTM's own server.
//
//	go test ./...              ─► go build ./cmd/handfast ──────┐
//	go test ./... -server=dtm  ─► go build in ../reference ─────┤ once per test process
//	                                                            ▼
//	Start(t): one for a test ─────────► free ports, store on disk ─► process
//	Shared(t): one for many, until Run ends        │
//	                Kill: SIGKILL   Stop: SIGINT   Restart: same store, same ports
//
// Where a test fails, the server's log goes to the test's.
package server

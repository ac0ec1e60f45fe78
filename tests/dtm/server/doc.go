// Package server runs a coordinator for tests of DTM's clients: Handfast with its
// front for them or, to compare, DTM's own server.
//
//	go test ./...              ─► go build ./cmd/handfast ──────┐
//	go test ./... -server=dtm  ─► go build in ../reference ─────┤ once per test process
//	Start(t) ─► free ports, store in t.TempDir() ─► process ◄───┘
//	              │ Kill: SIGKILL   Stop: SIGINT   Restart: same store, same ports
//	test ends ─► killed; its log goes to the test's where the test failed
package server

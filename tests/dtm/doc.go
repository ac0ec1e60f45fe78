// Package dtm tests Handfast with the Go client of DTM, which nobody here wrote:
// github.com/dtm-labs/client, as it is, over HTTP, JSON-RPC and gRPC.
//
//	test ─► DTM's client ─► coordinator (a process, see package server)
//	             │               │ actions, compensations, confirms, ...
//	             ▼               ▼
//	        services of the test, over HTTP, JSON-RPC and gRPC ─► Postgres, Redis
//
// Workflows are global to a process in this client, so those run in processes of
// their own: this test program again, playing a worker.
//
//	go test ./...                    against Handfast
//	go test . -server=dtm        against DTM's own server, to compare
//	go test -run Endurance -long .   10,000 transactions and 20 crashes
package dtm

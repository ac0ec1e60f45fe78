// Package hftest gives tests a world: a coordinator, a database, and a service
// that is attached to both.
//
//	New ─► pgtest database ─► install, schema, protect ─► rm.Pool ──┐
//	   └─► tc.Server on loopback, store on disk ◄── client ─────────┘
package hftest

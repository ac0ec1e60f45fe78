// Package tc is the coordinator as one piece: store, engine, services, health,
// reflection and the way down.
//
//	NewServer: open store ─► read open transactions back ─► listen
//	Serve:     gRPC { Coordinator, Admin, Health, Reflection } ─► api ─► engine ─► store
//	Shutdown:  readiness off ─► Drain to all sessions ─► gRPC stops ─► engine ─► store
//
// A server that can't write its store stops by itself: Serve returns the
// reason, and the process should exit with an error and be started again.
package tc

// Package api serves the gRPC services Coordinator and Admin on an engine, and
// delivers what the engine says unasked.
//
//	unary call ─► validate ─► engine.Submit ───────────────► Reply ─► response
//
//	Session ─► reader ─► validate ─► engine.Submit ──┐
//	   ▲                    │ Attach                 ▼
//	   │                    ▼                      engine
//	   │                   Hub ── Attached, ───────► │ │
//	   │                resource    Detached         │ │
//	   │              ─► sessions ◄─ Settle, AskVote ┘ │ Reply
//	   └── writer ◄── queue of the session ◄───────────┘
//
//	Watch ◄── bounded buffer ◄── Changed
//
// Nothing here waits for a client while the engine waits: replies and commands
// go into bounded queues, one per session. Where the queue for commands is
// full they are dropped, since the engine sends them again; where replies can't
// be written for too long, the session ends.
package api

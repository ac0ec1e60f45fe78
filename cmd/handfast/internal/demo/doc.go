// Package demo shows each mode on real parts, and breaks them: a coordinator and
// three services as processes of their own, three databases, kill -9.
//
//	demo ──► coordinator (handfast server)      ◄─ kill -9, restart
//	  ├────► orders    ──gRPC──► stock, accounts    AT, XA, workflow
//	  │        ▲       ──HTTP──► stock, accounts    TCC (Try)
//	  │        │                                ◄─ kill -9, restart
//	  │      coordinator ──HTTP──► stock, accounts  TCC (Confirm, Cancel), messages
//	  │        │   ──gRPC──► stock, accounts, orders    sagas
//	  │        └── session ──► orders               workflows (package handlers)
//	  ├────► stock, accounts                    ◄─ kill -9, restart
//	  ├────► Postgres: orders, stock, accounts  (private, or --dsn)
//	  │
//	  └─ scenario: place an order, stop a service at a point, kill something there,
//	     wait until nothing is undecided, then compare the rows with what must be
//
// A verdict rests on the databases: the rows have to be those of the outcome that
// was told, and no intent, prepared transaction or reservation may be left. It is
// given when the coordinator has nothing to do any more.
//
// Each action that the coordinator calls is put behind package fence, so an effect
// that happened twice would show in the rows.
package demo

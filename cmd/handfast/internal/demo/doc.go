// Package demo shows the main job on real parts, and breaks them: a coordinator
// and three services as processes of their own, three databases, kill -9.
//
//	demo ──► coordinator (handfast server)      ◄─ kill -9, restart
//	  ├────► orders    ──gRPC──► stock, accounts
//	  ├────► stock                              ◄─ kill -9, restart
//	  ├────► accounts
//	  ├────► Postgres: orders, stock, accounts  (private, or --dsn)
//	  │
//	  └─ scenario: place an order, break something, wait until nothing is
//	     undecided, then compare the rows in the databases with what must be
//
// A verdict rests on the databases alone: the rows have to be those of the
// outcome that the caller was told, and no intent may be left.
package demo

// Package handlers lets Go functions be called by the coordinator (TC) over the
// stream that a process has open to it. Nothing has to listen, so it works behind NAT
// and needs no address.
//
//	TC --- Call over the session ---> client ---> Group "payments" --- "charge" ---> func
//	 ^                                                |                               |
//	 |        DONE + result                           +-- nil, []byte <---------------+
//	 +------- FAILED, for good      <-----------------+-- ErrFailed
//	          NOT_YET, ask later                      +-- ErrNotYet
//	          UNSURE, try again                       +-- any other error, a panic, time up
//
// A Group is known by its name: target.Handler("payments", "charge") calls the function
// at any process that has attached the group. It need not have a database. Where it
// has one, put the effect behind package fence, with the identity of the Call: calls
// come at least once, sometimes to two processes at a time, and a compensation may
// come without, or before, what it compensates.
package handlers

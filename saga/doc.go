// Package saga has the coordinator (TC) carry out steps in several services, one
// after the other or in parallel, and undo those that were done where one fails.
//
//	Run ---> Begin, Submit ---> TC  (from here on nobody else is needed)
//
//	  hotel ----> flight ----> pay (pivot) ----> ticket ----> mail
//	    |            |            |              \_________________/
//	  action       action       action            tried until they succeed
//	    ^            ^            |
//	  cancel <---- cancel <------ fails for good, and so it is rolled back
//
// A step has an action and a compensation. Each step comes after the one before it;
// After and Parallel change that. Where a step fails for good, the compensations of the
// steps that were called run in reverse order, its own first, each until it succeeds. A
// compensation may be called although nobody knows whether its action happened, or
// although that was refused: package fence makes nothing of it then.
//
// A Pivot has no compensation: once it succeeded the saga is committed, and what comes
// after it only goes forward. ForwardRecovery is a saga of such steps alone. Any other
// step needs a compensation, or NoCompensation.
//
// Enlist makes a saga a part of a transaction that other modes take part in, too.
//
// Actions are called at least once. What is sent, and how results of earlier steps get
// into it, is in package target.
//
// A Definition can be written in Go, JSON or YAML; the three have the same fields:
//
//	name: trip
//	timeout: 1h                  # then it is rolled back; by default never
//	retry: {attention_after: 3}  # of steps that have none of their own
//	parallel: false              # steps without "after" start at once
//	forward_recovery: false
//	steps:
//	  - name: hotel
//	    http: http://hotel/book      # or grpc: host:port/package.Service/Method
//	    input: {guest: Ada}          #  or handler: book, with group: or database:
//	    timeout: 3s                  # of one call
//	    dtm: false                   # the service has DTM's barrier; see target.DTM
//	    retry: {attempts: 5}
//	    compensate:
//	      http: http://hotel/cancel
//	  - name: pay
//	    after: [hotel]
//	    handler: charge
//	    group: payments
//	    input: {booking: "${steps.hotel.id}"}
//	    pivot: true
package saga

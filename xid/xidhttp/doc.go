// Package xidhttp carries the XID of a context across HTTP requests.
//
//	caller                           callee
//	ctx with XID                     r.Context() with XID
//	     |                                ^
//	     v           header               |
//	Transport ---- Handfast-Xid ----> Middleware
//
// Both only add: other headers stay as they were. A server takes the XID from
// the request's header and from nowhere else; a request without one runs
// without a transaction.
package xidhttp

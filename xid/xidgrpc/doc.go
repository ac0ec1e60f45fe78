// Package xidgrpc carries the XID of a context across gRPC calls.
//
//	caller                              callee
//	ctx with XID                        ctx with XID
//	     |                                   ^
//	     v          metadata                 |
//	client interceptor --- handfast-xid ---> server interceptor
//
// The interceptors only add: other metadata and other interceptors are as they
// were. A server takes the XID from the metadata of the call and from nowhere
// else; a call without one runs without a transaction.
package xidgrpc

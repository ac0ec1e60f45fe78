// Package xid names a global transaction, and carries that name in a context.
//
//	coordinator                 service A                       service B
//	New(Parts) -> ID --text-->  Parse -> NewContext(ctx, id)
//	                               |  calls with ctx
//	                               +--- header handfast-xid --> NewContext(ctx, id)
//	                                    (xidgrpc, xidhttp)        |
//	                                                            FromContext(ctx) -> ID
//
// The package knows no transport. The packages xidgrpc and xidhttp carry an ID
// from one process to the next.
package xid

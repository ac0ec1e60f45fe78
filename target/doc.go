// Package target says what the coordinator calls: an address, what is sent there,
// and how long it may take. Packages saga, tcc, message and workflow are made of it.
//
//	target.HTTP("http://hotel/book", target.Payload(order))          +--> POST to any server
//	target.GRPC("hotel:443/hotel.v1.Rooms/Book", ...)      TC ------+--> unary gRPC call
//	target.Handler("rooms", "book", ...)                             +--> Go function, attached
//	                                                                      by package handlers
//
// A call carries its Identity: in HTTP headers, in gRPC metadata, or in fields of
// handlers.Call. It never carries the XID that makes services join a transaction. An
// action is called at least once; the identity is the same for each attempt, and is
// what makes the effect happen once (package fence).
//
// # References
//
// Payload takes bytes as they are, or any other value as JSON. In JSON, and in the URL of
// HTTP, a reference stands for a result that the coordinator puts in its place:
//
//	"${steps.hotel}"      the result of the step "hotel", which this one comes after
//	"${steps.hotel.id}"   a field of it
//	"${own}"              the result of the branch itself, when it is confirmed,
//	                      cancelled or compensated
//
// A string that is a reference and nothing else becomes the value, of whatever type; in
// a string with other text, the text of the value. "$${" stands for "${". Payloads for
// GRPC have no references, and nothing of a target with the option DTM has.
package target

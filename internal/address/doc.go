// Package address has the rules of what the coordinator calls: URLs, methods of gRPC, and
// what goes along with a call. They are the same for who builds a target, for the
// coordinator that takes it, and for what calls it: what was taken and can't be sent
// would be tried for ever, and nobody could change it.
//
//	target.Validate   tells the program that builds a target
//	tc/api            refuses it, before anything of it is stored
//	tc/caller         looks again before each call
//
// Errors say what is wrong and what would be right; who asks names the field. They never
// hold a password.
package address

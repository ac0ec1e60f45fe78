// Package client is the connection of a process to the coordinator (TC).
//
// All calls of a process share one bidirectional stream, called a session:
//
//	Begin, RegisterBranch,       in-flight table
//	Vote, Commit, ...  ------->  id -> call  ----+
//	   ^                            |            v
//	   |                            |         queue ---> writer ---+
//	   |                            |            ^    (many frames |
//	   |                            |            |     a message)  v
//	   +---- answer by id ----------+            |              Session  ==> TC
//	                                |            |                 |
//	Handler <--- bounded queue <----|--------- reader <------------+
//	   |         per resource       |
//	   +---- answer(result) --------+----> results
//
// One goroutine writes and one reads. A session that breaks is opened again
// after a pause that doubles, with jitter; then every call still in the table
// is sent again, in its old order. All requests of the protocol can be
// repeated safely, so a caller sees nothing of it but time. How long to go on
// is the caller's to say, with the context of the call. When that ends first,
// the call fails with *InterruptedError, which tells whether the request may
// have reached the coordinator.
//
// Settle and AskVotes are handed to the Handler of their resource through a
// bounded queue. When it is full the command is dropped; the coordinator sends it
// again. The same holds for answers while there is no session. A question that an
// operator waits for is refused instead, and asked again: see Examiner.
//
// A Call, which is one action of one branch, runs in a goroutine of its own, a
// bounded number at once; see WithCalls. Its answer goes out on the session that
// there is when the handler returns, or is dropped; then the coordinator calls again.
package client

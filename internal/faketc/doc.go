// Package faketc is a coordinator for tests that does what the test says. It
// speaks the real protocol over real gRPC and keeps nothing.
//
//	test --- On(func) ------> Server <=== Session stream === client under test
//	  |                          |
//	  +--- NextSession() ---> Session: Send, Break
//	  +--- Call(session, call) -> the client's answer
//
// Without a word from the test it answers every request as a coordinator would
// in whose world nothing goes wrong.
package faketc

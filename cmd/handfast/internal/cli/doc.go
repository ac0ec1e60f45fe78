// Package cli is the command line of the handfast binary.
//
//	handfast server | dev          the coordinator (package tc)
//	handfast tx ... | status       --gRPC Admin-->  a coordinator
//	handfast pg ...                --SQL-->         a Postgres database (package undolog)
//	handfast demo                  server and services as processes, on real Postgres
//	handfast version
//
// A command prints its result to standard output and everything else to
// standard error. Exit codes: 0 it did what was asked, 1 it failed, 2 it was
// called wrongly; then the message names the flag or argument and what would
// be right. Nothing here prints usage after a failure at run time: the reason
// is what one wants to read.
package cli

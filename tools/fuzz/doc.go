// Command fuzz runs every fuzz target of the module, one after the other.
//
//	go run ./tools/fuzz                                    20 s each
//	go run ./tools/fuzz -for 5m -only 'tc/caller'          some of them, for longer
//	go run ./tools/fuzz -report docs/reliability           and keep what was counted
//
//	files of tests ──► targets ──► go test -fuzz, one by one ──► execs, crashes ──► fuzz.json
//
// A target that fails does not keep the others from running. The input that it failed with
// is in the testdata of its package then, where go test runs it from now on.
package main

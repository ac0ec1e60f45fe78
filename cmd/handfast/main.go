// Command handfast is the coordinator of global transactions and the tool to
// look at and repair what it and its databases hold.
package main

import (
	"os"

	"github.com/handfast/handfast/cmd/handfast/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Streams{Out: os.Stdout, Err: os.Stderr, Environ: os.Environ()}))
}

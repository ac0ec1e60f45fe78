//go:build unix

package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// canDrop tells whether the kernel may be told to lose packets here.
var canDrop = sync.OnceValue(func() bool {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return false
	}
	// A rule that concerns nobody: port 0 is no one's.
	rule := []string{"INPUT", "-p", "tcp", "--dport", "0", "-j", "DROP"}
	if exec.Command("iptables", append([]string{"-w", "5", "-I"}, rule...)...).Run() != nil {
		return false
	}
	return exec.Command("iptables", append([]string{"-w", "5", "-D"}, rule...)...).Run() == nil
})

func ofPackets(w *world) []string {
	if canDrop() {
		return slices.Sorted(maps.Keys(w.links))
	}
	return nil
}

// dropped has the kernel lose the packets between a part and its link, both ways or one:
// unlike where the link holds them, nobody acknowledges anything.
func (w *world) dropped(_ context.Context, f fault, r *rand.Rand) (func() error, error) {
	port := strconv.Itoa(w.links[f.target].port())
	flags := [][]string{{"--dport"}, {"--sport"}, {"--dport", "--sport"}, {"--dport", "--sport"}}[r.IntN(4)]
	var undo []string
	for _, flag := range flags {
		undo = append(undo, fmt.Sprintf("iptables -w 5 -D INPUT -p tcp %s %s -j DROP", flag, port))
	}
	// The rules go with this process, even where that is killed.
	release, err := keep(strings.Join(undo, "\n"))
	if err != nil {
		return nil, err
	}
	for _, flag := range flags {
		if out, err := exec.Command("iptables", "-w", "5", "-I", "INPUT", "-p", "tcp", flag, port, "-j", "DROP").CombinedOutput(); err != nil {
			release(true)
			return nil, fmt.Errorf("iptables: %w: %s", err, out)
		}
	}
	return func() error {
		release(true)
		return nil
	}, nil
}

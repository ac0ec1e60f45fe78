package tc

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/handfast/handfast/tc/engine"
)

// CrashPointEnv is the environment variable with which "handfast server" is told to
// kill itself. See CrashPoint.
const CrashPointEnv = "HANDFAST_CRASH_POINT"

var crashPoints = []string{engine.BeforeWrite, engine.AfterWrite, engine.AfterForce, engine.BeforeDecision, engine.AfterDecision}

// CrashPoint gives what engine.Config.CrashPoint needs to kill this process at a
// point, for demonstrations and tests of crashes. want is the name of the point, such
// as engine.AfterDecision, and after a colon which time it is that counts, by default
// the first. It is nil where want is empty.
func CrashPoint(want string, log *slog.Logger) (func(string), error) {
	if want == "" {
		return nil, nil //nolint:nilnil // there is none, and nothing is wrong
	}
	name, count, counted := strings.Cut(want, ":")
	nth := int64(1)
	if counted {
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("crash point %q: %q is not a number from 1", want, count)
		}
		nth = n
	}
	if !slices.Contains(crashPoints, name) {
		return nil, fmt.Errorf("crash point %q: there is no %q; there are %s", want, name, strings.Join(crashPoints, ", "))
	}
	log.Warn("this coordinator will kill itself", "at", want)
	var seen atomic.Int64
	return func(point string) {
		if point == name && seen.Add(1) >= nth {
			kill()
		}
	}, nil
}

// kill ends the process without any goodbye.
func kill() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill() // SIGKILL where there are signals
	}
	select {} // nothing must get any further meanwhile
}

package child

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MakeDir makes a directory in base, empty: os.TempDir, whose name tells which
// process it belongs to. Sweep finds it where that process was killed.
func MakeDir(base, prefix string) (string, error) {
	return os.MkdirTemp(base, prefix+strconv.Itoa(os.Getpid())+"-")
}

// Sweep removes the directories in base, empty: os.TempDir, that MakeDir made with
// the prefix for processes that are gone. What can't be removed stays.
func Sweep(base, prefix string) {
	if base == "" {
		base = os.TempDir()
	}
	dirs, err := filepath.Glob(filepath.Join(base, prefix+"*"))
	if err != nil {
		return
	}
	for _, d := range dirs {
		pid, _, ok := strings.Cut(strings.TrimPrefix(filepath.Base(d), prefix), "-")
		if n, err := strconv.Atoi(pid); ok && err == nil && !alive(n) {
			_ = os.RemoveAll(d)
		}
	}
}

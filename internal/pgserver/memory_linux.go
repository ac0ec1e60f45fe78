package pgserver

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// inMemory is a directory whose files lie in memory, if there is plenty of that; empty:
// there is not. Containers often have one of 64 MiB.
func inMemory() string {
	const (
		dir       = "/dev/shm"
		tmpfs     = 0x01021994
		plenty    = 4 << 30
		kB        = 1024
		mayCreate = 2 | 1 // in access(2): write and search
	)
	if err := syscall.Access(dir, mayCreate); err != nil {
		return ""
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Type != tmpfs || fs.Bavail*uint64(fs.Bsize) < plenty {
		return ""
	}
	// What the file system has room for the machine need not have.
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		var n int64
		if c, err := fmt.Sscanf(line, "MemAvailable: %d kB", &n); err == nil && c == 1 && n*kB >= plenty {
			return dir
		}
	}
	return ""
}

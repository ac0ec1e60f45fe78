package pgserver

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// roomInMemory tells whether there is plenty of room in memoryDir, and whether it is open
// to us. Containers often have one of 64 MiB.
func roomInMemory() bool {
	const (
		tmpfs     = 0x01021994
		plenty    = 4 << 30
		kB        = 1024
		mayCreate = 2 | 1 // in access(2): write and search
	)
	if err := syscall.Access(memoryDir, mayCreate); err != nil {
		return false
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memoryDir, &fs); err != nil || fs.Type != tmpfs || fs.Bavail*uint64(fs.Bsize) < plenty {
		return false
	}
	// What the file system has room for the machine need not have.
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		var n int64
		if c, err := fmt.Sscanf(line, "MemAvailable: %d kB", &n); err == nil && c == 1 && n*kB >= plenty {
			return true
		}
	}
	return false
}

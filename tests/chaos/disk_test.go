//go:build unix

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// disk is a small file system for the store, which can be full. Without the right to
// mount one it is an ordinary directory, which can't.
type disk struct {
	dir     string
	release func(run bool) // nil: an ordinary directory
}

// roomy is its size while there is room, which is taken from memory.
const roomy = "2g"

func newDisk(dir string) (*disk, error) {
	d := &disk{dir: dir}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return d, nil
	}
	// The directory goes with this process, even where that is killed.
	release, err := keep(`umount -l "$1"`, dir)
	if err != nil {
		return nil, err
	}
	if exec.Command("mount", "-t", "tmpfs", "-o", "mode=700,size="+roomy, "handfast-chaos", dir).Run() == nil {
		d.release = release
	} else {
		release(false) // a container may do less than root
	}
	return d, nil
}

func (d *disk) canBeFull() bool { return d.release != nil }

func (d *disk) resize(size string) error {
	out, err := exec.Command("mount", "-o", "remount,size="+size, d.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("resize %s: %w: %s", d.dir, err, out)
	}
	return nil
}

// fill leaves so much room, and a few pages.
func (d *disk) fill(room int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		return err
	}
	used := int64(st.Blocks-st.Bfree) * int64(st.Bsize) //nolint:unconvert // it has 32 bits elsewhere
	return d.resize(fmt.Sprint(used + room + 16<<10))
}

func (d *disk) empty() error { return d.resize(roomy) }

func (d *disk) close() {
	if d.release != nil {
		d.release(true)
	}
}

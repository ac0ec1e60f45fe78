package rm_test

import (
	"syscall"
	"time"
)

// nap sleeps with more precision than the runtime's timers, which are good to
// about a millisecond.
func nap(d time.Duration) {
	for d > 0 {
		ts := syscall.NsecToTimespec(int64(d))
		var left syscall.Timespec
		if syscall.Nanosleep(&ts, &left) == nil {
			return
		}
		d = time.Duration(left.Nano())
	}
}

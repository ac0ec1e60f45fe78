//go:build !linux

package rm_test

import "time"

func nap(d time.Duration) { time.Sleep(d) }

//go:build !unix

package caller_test

import "time"

func cpu() time.Duration { return 0 }

package config

import (
	"testing"
	"time"
)

// What is read as a size or a duration is written so that the same is read again.
func FuzzValues(f *testing.F) {
	for _, s := range []string{"0", "512MiB", "1073741824B", "8388608TiB", "9223372036854775807", "-1", "1.5GiB", "", "B", "+1B", "7d", "36500d", "36501d", "-1d", "1h30m", "90s", "1e9h", "-5m", "2562047h47m16.854775807s", "0d", "1µs", " 1s", "1d1h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseSize(s); err == nil {
			if again, err := ParseSize(FormatSize(n)); n < 0 || err != nil || again != n {
				t.Fatalf("size %q is %d, written as %q, and that %d: %v", s, n, FormatSize(n), again, err)
			}
		}
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		if again, err := ParseDuration(FormatDuration(d)); err != nil || again != d {
			t.Fatalf("duration %q is %d, written as %q, and that %d: %v", s, d, FormatDuration(d), again, err)
		}
		v := durationValue{p: new(time.Duration), min: time.Second, max: time.Hour}
		if err := v.Set(s); (err == nil) != (d >= time.Second && d <= time.Hour) || err != nil && *v.p != 0 {
			t.Fatalf("duration %q: %v, %v", s, *v.p, err)
		}
	})
}

package engine

import (
	"testing"
	"time"
)

// Retries and deadlines must not wait until a clock that was set back has caught up.
func TestClockGoesOnWhereTheSystemsWasSetBack(t *testing.T) {
	t.Parallel()
	start := time.UnixMilli(1_800_000_000_000)
	back := start.Add(-time.Hour)
	for _, c := range []struct {
		name   string
		wall   time.Time
		passed time.Duration
		want   time.Time
	}{
		{"as usual", start.Add(time.Second), time.Second, start.Add(time.Second)},
		{"set back", back, 0, start},
		{"some time after it was set back", back.Add(3 * time.Second), 3 * time.Second, start.Add(3 * time.Second)},
		{"set forward", start.Add(time.Hour), time.Second, start.Add(time.Hour)},
		{"a clock that knows of no other than the wall's", back, -time.Hour, start},
	} {
		if got := goOn(start, c.wall, c.passed); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestClockIsNeverBehindWhatWasRecorded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := clock{now: func() time.Time {
		now = now.Add(time.Second)
		return now
	}}
	ahead := now.Add(time.Hour).Round(0)
	c.raise(ahead)
	for i, want := range []time.Time{ahead, ahead.Add(time.Second), ahead.Add(2 * time.Second)} {
		if got := c.Now(); !got.Equal(want) {
			t.Fatalf("reading %d: %s, want %s", i, got, want)
		}
	}
}

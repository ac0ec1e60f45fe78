package figures

import (
	"context"
	"time"
)

// Keep writes a run that began then and ends now; nothing where no directory is given.
func Keep(dir string, begun time.Time, run Run) error {
	if dir == "" {
		return nil
	}
	run.Seconds = int(time.Since(begun).Seconds())
	if run.Commit == "" {
		run.Commit = Commit(context.Background())
	}
	return Write(dir, run)
}

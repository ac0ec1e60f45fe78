package undolog

import (
	"context"
	"time"
)

// DoctorWith is Doctor with limits that a test can reach.
func DoctorWith(ctx context.Context, db Beginner, old time.Duration, dead, bytes int64) ([]Finding, error) {
	return doctor(ctx, db, limits{leftover: old, held: old, dead: dead, heap: bytes, index: bytes})
}

// ParseGID is parseGID.
var ParseGID = parseGID

package dtm

import (
	"context"
	"errors"
	"fmt"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
)

// kind is what DTM's clients can tell apart, and a little more.
type kind uint8

const (
	other   kind = iota // whatever else: clients try again, or give up
	failure             // it was refused for good
	ongoing             // it goes on; ask again
	invalid             // the request is wrong
	busy                // try again later
)

// refusal is why a request was not done.
type refusal struct {
	kind kind
	text string
}

// Error gives the text that the client is told.
func (r *refusal) Error() string { return r.text }

func refuse(k kind, format string, args ...any) error {
	return &refusal{k, fmt.Sprintf(format, args...)}
}

// wrong refuses a request for the content of one field.
func wrong(field, format string, args ...any) error {
	return refuse(invalid, "%s: %s", field, fmt.Sprintf(format, args...))
}

// refusalOf makes a refusal of any error.
func refusalOf(err error) *refusal {
	var r *refusal
	var e *core.Error
	switch {
	case errors.As(err, &r):
		return r
	case errors.As(err, &e) && e.Kind == core.ErrLimit:
		return &refusal{busy, e.Message}
	case errors.As(err, &e) && e.Kind == core.ErrBranchConflict:
		return &refusal{failure, e.Message}
	case errors.As(err, &e):
		return &refusal{other, e.Message}
	case errors.Is(err, engine.ErrFull):
		return &refusal{busy, "the coordinator has more to do than it can queue; try again"}
	case errors.Is(err, engine.ErrStopped):
		return &refusal{busy, "the coordinator is shutting down"}
	case errors.Is(err, engine.ErrFailed):
		return &refusal{other, "the coordinator can't write its store any more and stops"}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &refusal{busy, "the request was given up: " + err.Error()}
	default:
		return &refusal{other, err.Error()}
	}
}

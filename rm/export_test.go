package rm

import "time"

// WithTurn sets how long a waiter leaves a row to each of those before it.
func WithTurn(d time.Duration) Option {
	return func(c *config) error { c.turn = d; return nil }
}

// Control is what a text of SQL would do to a transaction.
var Control = control

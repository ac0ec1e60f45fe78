package rm

import (
	"fmt"
	"log/slog"
	"time"
)

type config struct {
	log             *slog.Logger
	name            string
	mode            Mode
	lockTimeout     time.Duration
	turn            time.Duration // how long a waiter leaves a row to each of those before it
	savepoints      bool
	registerTimeout time.Duration
	janitorInterval time.Duration
	janitorAge      time.Duration
	settleConns     int
	settleQueue     int
	settleBatch     int
	closeTimeout    time.Duration
}

func defaults() config {
	return config{
		log:             slog.Default(),
		mode:            AT,
		lockTimeout:     5 * time.Second,
		turn:            50 * time.Millisecond,
		savepoints:      true,
		registerTimeout: 10 * time.Second,
		janitorInterval: 15 * time.Second,
		janitorAge:      30 * time.Second,
		settleConns:     2,
		settleQueue:     16384,
		settleBatch:     128,
		closeTimeout:    5 * time.Second,
	}
}

// Option changes how a Pool works.
type Option func(*config) error

// WithLogger sets where the pool logs what its caller can't be told: failed
// settling, leftovers that nobody may touch. The default is slog.Default.
func WithLogger(log *slog.Logger) Option {
	return func(c *config) error {
		if log == nil {
			return fmt.Errorf("handfast: WithLogger: the logger is nil")
		}
		c.log = log
		return nil
	}
}

// WithName names the database in the coordinator's lists. The default is its
// host, port and name. At most 256 bytes.
func WithName(name string) Option {
	return func(c *config) error {
		if name == "" || len(name) > 256 {
			return fmt.Errorf("handfast: WithName: the name is %d bytes long, want 1 to 256", len(name))
		}
		c.name = name
		return nil
	}
}

// WithMode sets how local transactions take part, where neither their context nor
// BeginXA says otherwise. With XA, opening fails where the server has no places for
// prepared transactions. The default is AT.
func WithMode(m Mode) Option {
	return func(c *config) error {
		if !m.known() {
			return fmt.Errorf("handfast: WithMode: %s, want AT or XA", m)
		}
		c.mode = m
		return nil
	}
}

// WithLockTimeout bounds how long a statement under an XID waits for a row:
// for a lock inside Postgres, and for another global transaction to be decided
// and settled. The default is 5 s.
func WithLockTimeout(d time.Duration) Option {
	return func(c *config) error {
		if d < time.Millisecond || d > 10*time.Minute {
			return fmt.Errorf("handfast: WithLockTimeout: %v, want 1 ms to 10 min", d)
		}
		c.lockTimeout = d
		return nil
	}
}

// WithSavepoints sets whether a statement of an explicit transaction gets a
// savepoint before it. With one, a statement that meets a row of another global
// transaction goes back to it, waits, and runs again, and what the transaction
// did before is kept; without one, the statement fails at once, and the
// transaction has to be rolled back and run anew. The first statement needs no
// savepoint, and a plain read gets none.
//
// It travels in the same flush as the statement, so it costs no round trip.
// Inside Postgres it is a subtransaction, which uses up a transaction id for
// each statement that writes: nothing that can be measured in a transaction of
// up to 20 statements, and about 70 µs each in one of 100. Switch it off where
// local transactions have many more writes than that, as every snapshot on the
// server gets dearer while one has over 64. The default is true, for losing a
// transaction's work to a short wait costs its caller far more.
func WithSavepoints(on bool) Option {
	return func(c *config) error {
		c.savepoints = on
		return nil
	}
}

// WithRegisterTimeout bounds how long a branch waits for the coordinator to
// acknowledge it, counted from its first statement. The default is 10 s.
func WithRegisterTimeout(d time.Duration) Option {
	return func(c *config) error {
		if d < time.Millisecond || d > 10*time.Minute {
			return fmt.Errorf("handfast: WithRegisterTimeout: %v, want 1 ms to 10 min", d)
		}
		c.registerTimeout = d
		return nil
	}
}

// WithJanitorInterval sets how often the pool looks for leftovers. A fifth of
// it is random. The default is 15 s.
func WithJanitorInterval(d time.Duration) Option {
	return func(c *config) error {
		if d < time.Millisecond {
			return fmt.Errorf("handfast: WithJanitorInterval: %v, want at least 1 ms", d)
		}
		c.janitorInterval = d
		return nil
	}
}

// WithJanitorAge sets how old an intent has to be before the janitor asks for
// its transaction. The default is 30 s.
func WithJanitorAge(d time.Duration) Option {
	return func(c *config) error {
		if d < 0 {
			return fmt.Errorf("handfast: WithJanitorAge: %v is negative", d)
		}
		c.janitorAge = d
		return nil
	}
}

// WithSettleConnections sets how many connections of its own the pool uses to
// settle. They don't count against the pool's limit. The default is 2.
func WithSettleConnections(n int) Option {
	return func(c *config) error {
		if n < 1 || n > 16 {
			return fmt.Errorf("handfast: WithSettleConnections: %d, want 1 to 16", n)
		}
		c.settleConns = n
		return nil
	}
}

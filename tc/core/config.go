package core

import (
	"time"

	"github.com/handfast/handfast/xid"
)

// Config holds what does not change while a machine runs.
type Config struct {
	Store       xid.StoreID
	Incarnation uint32
	// Horizon: finished transactions begun at or before it may be forgotten.
	Horizon time.Time
	// QuarantineBelow makes transactions of earlier incarnations read-only; 0: none.
	QuarantineBelow uint32

	MaxOpen     int // open transactions; 0: 4,000,000
	MaxBranches int // per transaction; 0: 1,000
	// MaxHeld bounds in bytes what open transactions hold, in this machine and in
	// others, as Machine.Held counts it; 0: 1 GiB. A key, a note or a branch with a
	// plan that would go beyond is refused, and that of a transaction whose branches
	// hold nothing yet an eighth earlier. Whatever ends transactions is never refused.
	MaxHeld int64

	RestartGrace   time.Duration // restored deadlines come no earlier than this after start; 0: 10 s
	CollectGrace   time.Duration // how long to wait for missing votes before asking; 0: 200 ms
	RetryFirst     time.Duration // first pause of phase two; 0: 100 ms
	RetryMax       time.Duration // longest pause; 0: 30 s
	AnswerTimeout  time.Duration // how long an RM may take to answer a command; 0: 10 s
	AttentionAfter uint32        // failed attempts; 0: 10
	Window         int           // settle commands in flight per resource; 0: 512
}

func (c Config) withDefaults() Config {
	orDuration(&c.RestartGrace, 10*time.Second)
	orDuration(&c.CollectGrace, 200*time.Millisecond)
	orDuration(&c.RetryFirst, 100*time.Millisecond)
	orDuration(&c.RetryMax, 30*time.Second)
	orDuration(&c.AnswerTimeout, 10*time.Second)
	orInt(&c.MaxOpen, 4_000_000)
	orInt(&c.MaxBranches, 1000)
	orInt(&c.Window, 512)
	if c.MaxHeld == 0 {
		c.MaxHeld = 1 << 30
	}
	if c.AttentionAfter == 0 {
		c.AttentionAfter = 10
	}
	return c
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d == 0 {
		*d = def
	}
}

func orInt(n *int, def int) {
	if *n == 0 {
		*n = def
	}
}

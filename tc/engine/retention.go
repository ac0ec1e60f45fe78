package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/handfast/handfast/tc/core"
)

// expireStep bounds one call of Expire, so that it never holds up the store
// for long.
const expireStep = 1000

// expire drops what is older than the retention, again and again.
func (e *Engine) expire(ctx context.Context) {
	ticker := time.NewTicker(e.cfg.ExpireEvery)
	defer ticker.Stop()
	for {
		if err := e.expireOnce(ctx); err != nil && ctx.Err() == nil {
			e.fail(err)
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		case <-e.dead:
			return
		}
	}
}

func (e *Engine) expireOnce(ctx context.Context) error {
	cutoff := e.clock.Now().Add(-e.cfg.Retention)
	for ctx.Err() == nil {
		n, err := e.st.Expire(ctx, cutoff, expireStep)
		if n > 0 {
			e.Post(core.Horizon{Time: e.st.Meta().Horizon})
		}
		if err != nil {
			return fmt.Errorf("engine: drop old transactions: %w", err)
		}
		if n < expireStep {
			return nil
		}
	}
	return nil
}

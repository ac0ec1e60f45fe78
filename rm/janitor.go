package rm

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const (
	janitorBatch   = 256    // XIDs asked for in one round
	janitorGC      = 50_000 // old fences dropped in one round
	janitorTimeout = 10 * time.Second
)

// janitor looks for intents that have lain for long and settles those whose
// transaction the coordinator says is decided, and drops old fences. It never concludes anything from
// the coordinator not knowing an XID.
type janitor struct {
	agent *agent
	told  map[xid.ID]string // what was logged of the XIDs of the last round
}

func (j *janitor) run() {
	p := j.agent.p
	for {
		every := p.cfg.janitorInterval
		t := time.NewTimer(every - every/10 + rand.N(every/5+1)) //nolint:gosec // not a secret
		select {
		case <-t.C:
			j.round(p.ctx)
		case <-p.ctx.Done():
			t.Stop()
			return
		}
	}
}

// round looks once.
func (j *janitor) round(ctx context.Context) {
	pending, err := j.pending(ctx)
	if err != nil {
		if ctx.Err() == nil {
			j.agent.p.log.Warn("the janitor can't read what is left over", "resource", j.agent.p.resource, "error", err)
		}
		return
	}
	// Any part of a long list gets its turn.
	rand.Shuffle(len(pending), func(a, b int) { pending[a], pending[b] = pending[b], pending[a] }) //nolint:gosec // not a secret
	told := make(map[xid.ID]string, len(pending))
	for n, x := range pending {
		before := j.told[x.XID]
		why := before // where it is not its turn
		if n < janitorBatch && ctx.Err() == nil {
			why = j.look(ctx, x)
		}
		if why == "" {
			continue
		}
		told[x.XID] = why
		if why != before {
			j.agent.p.log.Warn("intents are left alone", "xid", x.XID, "resource", j.agent.p.resource,
				"since", x.Since, "rows", x.Intents, "reason", why)
		}
	}
	j.told = told
}

func (j *janitor) pending(ctx context.Context) ([]undolog.PendingXID, error) {
	ctx, cancel := context.WithTimeout(ctx, janitorTimeout)
	defer cancel()
	var found []undolog.PendingXID
	err := j.agent.do(ctx, func(ctx context.Context, s *settler) error {
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		if found, err = undolog.Pending(ctx, conn, j.agent.p.cfg.janitorAge); err != nil {
			return err
		}
		// Fences that no late message can need any more; what is over the limit
		// goes in the next round.
		_, err = undolog.GC(ctx, conn, janitorGC)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// look settles a transaction if it is decided. Otherwise it says why not; ""
// where there is nothing to say.
func (j *janitor) look(ctx context.Context, x undolog.PendingXID) string {
	ctx, cancel := context.WithTimeout(ctx, janitorTimeout)
	defer cancel()
	settled, why := j.agent.settleDecided(ctx, x.XID)
	if settled {
		j.agent.p.log.Info("settled what was left over", "xid", x.XID, "resource", j.agent.p.resource)
	}
	return why
}

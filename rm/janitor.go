package rm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const (
	janitorBatch   = 256    // XIDs asked for in one round
	janitorGC      = 50_000 // old fences dropped at once
	janitorTimeout = 10 * time.Second
)

// janitor looks for intents and prepared transactions that have lain for long and
// settles those whose transaction the coordinator says is decided. It never
// concludes anything from the coordinator not knowing an XID. It also drops old
// fences, and has dead rows cleared away.
type janitor struct {
	agent *agent
	told  map[string]string // what was logged of the leftovers of the last round
	chore string            // what was logged of cleaning
}

// chores are what a round found to clean, and is not done on a settling connection.
type chores struct {
	fences bool     // there are more old ones than one round drops
	vacuum []string // tables
}

// leftover is what one XID has left in the database.
type leftover struct {
	xid      xid.ID // zero: nobody can be asked
	since    time.Time
	rows     int64
	prepared []string
}

// name is what the leftover is known by from round to round.
func (l *leftover) name() string {
	if l.xid.IsZero() {
		return l.prepared[0]
	}
	return l.xid.String()
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
	pending, todo, err := j.pending(ctx)
	if err != nil {
		if ctx.Err() == nil {
			j.agent.p.log.Warn("the janitor can't read what is left over", "resource", j.agent.p.resource, "error", err)
		}
		return
	}
	j.settle(ctx, pending)
	err = j.clean(ctx, todo)
	switch {
	case err == nil:
		j.chore = ""
	case ctx.Err() == nil && err.Error() != j.chore:
		j.chore = err.Error()
		j.agent.p.log.Warn("the janitor can't clean the tables of the schema", "resource", j.agent.p.resource, "error", err)
	}
}

// settle looks at each transaction that is left over.
func (j *janitor) settle(ctx context.Context, pending []*leftover) {
	// Any part of a long list gets its turn.
	rand.Shuffle(len(pending), func(a, b int) { pending[a], pending[b] = pending[b], pending[a] }) //nolint:gosec // not a secret
	told := make(map[string]string, len(pending))
	for n, x := range pending {
		before := j.told[x.name()]
		why := before // where it is not its turn
		if n < janitorBatch && ctx.Err() == nil {
			why = j.look(ctx, x)
		}
		if why == "" {
			continue
		}
		told[x.name()] = why
		if why != before {
			j.agent.p.log.Warn("undecided leftovers are left alone", "xid", x.xid, "resource", j.agent.p.resource,
				"since", x.since, "rows", x.rows, "prepared", x.prepared, "reason", why)
		}
	}
	j.told = told
}

func (j *janitor) pending(ctx context.Context) ([]*leftover, chores, error) {
	ctx, cancel := context.WithTimeout(ctx, janitorTimeout)
	defer cancel()
	var found []undolog.PendingXID
	var prepared []undolog.Prepared
	var todo chores
	err := j.agent.do(ctx, func(ctx context.Context, s *settler) error {
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		if found, err = undolog.Pending(ctx, conn, j.agent.p.cfg.janitorAge); err != nil {
			return err
		}
		if prepared, err = undolog.PreparedBranches(ctx, conn, j.agent.p.cfg.janitorAge); err != nil {
			return err
		}
		// Fences that no late message can need any more.
		n, err := undolog.GC(ctx, conn, janitorGC)
		if err != nil {
			return err
		}
		todo.fences = n == janitorGC
		todo.vacuum, err = undolog.VacuumDue(ctx, conn, undolog.VacuumDead)
		return err
	})
	if err != nil {
		return nil, chores{}, err // a job that was given up may still write to them
	}
	return leftovers(found, prepared), todo, nil
}

// clean does what takes long, on a connection of its own, which lives for that
// only: nobody's settling waits for it.
func (j *janitor) clean(ctx context.Context, todo chores) error {
	if !todo.fences && len(todo.vacuum) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, janitorTimeout)
	defer cancel()
	s := newSettler(j.agent)
	defer s.disconnect()
	// Without this, Postgres would go on with what nobody waits for.
	s.config.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: time.Second}
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	// Not all of the time, or tables would never get their turn.
	for begun := time.Now(); todo.fences && time.Since(begun) < janitorTimeout/2; {
		n, err := undolog.GC(ctx, conn, janitorGC)
		if err != nil {
			return err
		}
		todo.fences = n == janitorGC
	}
	return undolog.Vacuum(ctx, conn, todo.vacuum...)
}

// leftovers puts together what belongs to one XID.
func leftovers(pending []undolog.PendingXID, prepared []undolog.Prepared) []*leftover {
	var all []*leftover
	of := make(map[xid.ID]*leftover, len(pending))
	for _, p := range pending {
		l := &leftover{xid: p.XID, since: p.Since, rows: p.Intents}
		of[p.XID], all = l, append(all, l)
	}
	for _, p := range prepared {
		l := of[p.XID]
		if l == nil {
			l = &leftover{xid: p.XID, since: p.Since}
			all = append(all, l)
			if !p.XID.IsZero() {
				of[p.XID] = l
			}
		}
		l.prepared = append(l.prepared, p.GID)
	}
	return all
}

// look settles a transaction if it is decided. Otherwise it says why not; ""
// where there is nothing to say.
func (j *janitor) look(ctx context.Context, x *leftover) string {
	if x.xid.IsZero() {
		return "its name is none that Handfast gives; see handfast pg pending"
	}
	ctx, cancel := context.WithTimeout(ctx, janitorTimeout)
	defer cancel()
	settled, why := j.agent.settleDecided(ctx, x.xid)
	if !settled {
		return why
	}
	if left := j.stillPrepared(ctx, x); left != "" {
		return fmt.Sprintf("%s is prepared, and its branch is none that the coordinator knows in this database", left)
	}
	j.agent.p.log.Info("settled what was left over", "xid", x.xid, "resource", j.agent.p.resource)
	return ""
}

// stillPrepared gives a prepared transaction that settling its XID did not end.
func (j *janitor) stillPrepared(ctx context.Context, x *leftover) (gid string) {
	if len(x.prepared) == 0 {
		return ""
	}
	// Where it can't be looked for, the next round finds it.
	_ = j.agent.do(ctx, func(ctx context.Context, s *settler) error {
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		now, err := undolog.PreparedBranches(ctx, conn, 0)
		for _, p := range now {
			if slices.Contains(x.prepared, p.GID) {
				gid = p.GID
			}
		}
		return err
	})
	return gid
}

package rm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const (
	connectTimeout = 5 * time.Second
	settleTimeout  = 30 * time.Second // of one batch
	// settleLockTimeout bounds how long a settlement waits for a row that a
	// local transaction holds; it is tried again later.
	settleLockTimeout = 500 * time.Millisecond
	askLockTimeout    = 500 * time.Millisecond
	// settlePause is how long commits wait for company when there is much to
	// settle: a batch costs hardly more than one of them alone.
	settlePause = 2 * time.Millisecond
)

// settler owns one connection and the goroutine that uses it.
type settler struct {
	a      *agent
	config *pgxpool.Config
	conn   *pgx.Conn
	pooled bool // something in between refuses settings
}

func newSettler(a *agent) *settler {
	cfg := a.p.plain.Config()
	c := cfg.ConnConfig
	c.Tracer = nil
	// Arrays of ids need the types that exec and simple_protocol do not ask for.
	// describe_exec asks in one round trip and runs in the next one, between which
	// a pooler may change the connection; cache_describe does not mind.
	switch c.DefaultQueryExecMode {
	case pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeDescribeExec:
		c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		c.DescriptionCacheCapacity = max(c.DescriptionCacheCapacity, 64)
	case pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe:
	}
	return &settler{a: a, config: cfg}
}

func (s *settler) run() {
	defer s.disconnect()
	for {
		select {
		case <-s.a.p.ctx.Done():
			return
		case j := <-s.a.jobs:
			s.job(j)
		case s.a.turn <- struct{}{}:
			batch, j := s.collect()
			<-s.a.turn
			if j != nil {
				s.job(j)
			}
			if len(batch) > 0 {
				s.batch(batch)
			}
		}
	}
}

// collect waits for something to do and takes what else has queued. Only the
// settler whose turn it is does, so that batches grow under load and not the
// number of settlers at work. The first commit after a quiet time goes at once,
// the next wait for company, for settlePause at most; a rollback never waits.
func (s *settler) collect() (batch []*item, j *job) {
	select {
	case <-s.a.p.ctx.Done():
		return nil, nil
	case j := <-s.a.jobs:
		return nil, j
	case i := <-s.a.items:
		batch = append(batch, i)
	}
	var pause <-chan time.Time
	if left := settlePause - time.Since(s.a.collected); left > 0 {
		t := time.NewTimer(left)
		defer t.Stop()
		pause = t.C
	}
	for urgent := !batch[0].Commit; len(batch) < s.a.p.cfg.settleBatch; {
		select {
		case i := <-s.a.items:
			batch = append(batch, i)
			urgent = urgent || !i.Commit
			continue
		default:
		}
		if urgent || pause == nil {
			break
		}
		select {
		case i := <-s.a.items:
			batch = append(batch, i)
			urgent = !i.Commit
		case j = <-s.a.jobs:
			urgent = true
		case <-pause:
			pause = nil
		case <-s.a.p.ctx.Done():
			urgent = true
		}
	}
	s.a.collected = time.Now()
	return batch, j
}

func (s *settler) job(j *job) {
	if err := j.ctx.Err(); err != nil {
		j.done <- err
		return
	}
	ctx, cancel := context.WithTimeout(j.ctx, settleTimeout)
	defer cancel()
	stop := context.AfterFunc(s.a.p.ctx, cancel)
	defer stop()
	err := j.run(ctx, s)
	if err != nil && s.conn != nil && s.conn.IsClosed() && ctx.Err() == nil {
		err = j.run(ctx, s) // the connection had died while it lay idle
	}
	j.done <- err
}

// batch settles commits together and rollbacks one by one.
func (s *settler) batch(batch []*item) {
	var commits []*item
	for _, i := range batch {
		if i.Commit {
			commits = append(commits, i)
		}
	}
	if len(commits) > 0 {
		s.settle(commits)
	}
	for _, i := range batch {
		if !i.Commit {
			s.settle([]*item{i})
		}
	}
}

// settle settles items in one call and answers each of them.
func (s *settler) settle(items []*item) {
	ctx, cancel := context.WithTimeout(s.a.p.ctx, settleTimeout)
	defer cancel()
	results := s.try(ctx, items)
	if s.conn != nil && s.conn.IsClosed() && ctx.Err() == nil {
		// It had died while it lay idle. Settling again does no harm.
		results = s.try(ctx, items)
	}
	// Before the answers: a command that comes because of one must not be taken
	// for the one that was answered.
	s.a.unqueue(items)
	if s.a.p.ctx.Err() != nil {
		return // the pool is closing: whoever comes next settles it
	}
	for _, i := range items {
		err, ok := results[i.XID]
		if !ok {
			err = fmt.Errorf("settling %s gave no result", i.XID)
		}
		i.done(err)
	}
}

func (s *settler) try(ctx context.Context, items []*item) map[xid.ID]error {
	results := make(map[xid.ID]error, len(items))
	conn, err := s.connect(ctx)
	if err != nil {
		for _, i := range items {
			results[i.XID] = err
		}
		return results
	}
	list := make([]undolog.Settlement, len(items))
	for n, i := range items {
		list[n] = i.Settlement
	}
	for _, r := range undolog.Settle(ctx, conn, list, undolog.SettleOptions{LockTimeout: settleLockTimeout}) {
		results[r.XID] = explainPooler(r.Err)
	}
	return results
}

// connect gives the connection, a new one where there is none that lives.
func (s *settler) connect(ctx context.Context) (*pgx.Conn, error) {
	if s.conn != nil && !s.conn.IsClosed() && s.conn.PgConn().TxStatus() == 'I' {
		return s.conn, nil
	}
	s.disconnect()
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	cfg := s.config.ConnConfig.Copy()
	if s.config.BeforeConnect != nil {
		if err := s.config.BeforeConnect(ctx, cfg); err != nil {
			return nil, fmt.Errorf("connecting to settle: %w", err)
		}
	}
	conn, err := s.open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to settle: %w", err)
	}
	s.conn = conn
	return conn, nil
}

// undisturbed are settings that win over those of the role, of the database and
// of the DSN: what the application sets for its own statements must not cut
// settling short.
var undisturbed = map[string]string{
	"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0",
	"default_transaction_isolation": "read committed", "default_transaction_read_only": "off",
	"default_transaction_deferrable": "off",
}

// open connects with undisturbed settings. PgBouncer takes none at the start of
// a connection, and later ones would stay with whom it gives the connection next;
// there the settings of the role count.
func (s *settler) open(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	for k := range undisturbed {
		delete(cfg.RuntimeParams, k)
	}
	delete(cfg.RuntimeParams, "transaction_timeout")
	if s.pooled {
		return pgx.ConnectConfig(ctx, cfg)
	}
	own := cfg.Copy()
	maps.Copy(own.RuntimeParams, undisturbed)
	conn, err := pgx.ConnectConfig(ctx, own)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "08P01" { // protocol_violation
		if conn, err = pgx.ConnectConfig(ctx, cfg); err == nil {
			s.pooled = true
		}
		return conn, err
	}
	if err != nil {
		return nil, err
	}
	// This one came with Postgres 17; others refuse to start with it.
	if _, err := conn.Exec(ctx, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout' AND setting <> '0'"); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

func (s *settler) disconnect() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // there is nobody to tell
	s.conn = nil
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// Errors of an engine, for errors.Is.
var (
	// ErrFull: a shard has too much to do; try again later.
	ErrFull = errors.New("engine: the queue is full")
	// ErrStopped: the engine was closed.
	ErrStopped = errors.New("engine: stopped")
	// ErrFailed: a write failed or a bug showed; the process has to start afresh.
	ErrFailed = errors.New("engine: failed")
)

// Points at which Config.CrashPoint is called.
const (
	// BeforeWrite: a batch of records has not reached the store.
	BeforeWrite = "before-write"
	// AfterWrite: it has, and may be lost with the process or the machine.
	AfterWrite = "after-write"
	// AfterForce: the log is durable, and nobody was told what is new in it.
	AfterForce = "after-force"
	// BeforeDecision: nothing of a decision has reached the store.
	BeforeDecision = "before-decision"
	// AfterDecision: a decision is durable, and nobody was told.
	AfterDecision = "after-decision"
)

// Waiter is what every core.Ref given to an engine has to be. Reply is called
// at most once, from a goroutine of the engine, when the answer may be told;
// it must not block. durable is a position of the store's log that survives a
// crash and is not before what the reply speaks of. Once Dead is closed there
// may be no Reply.
type Waiter interface {
	Reply(r core.Reply, durable uint64)
}

// Quitter is a Waiter that tells, from before its core.Cancel is posted,
// that nobody waits for its reply any more. Then it closes no cycle, however
// late its shard comes to it.
type Quitter interface {
	Waiter
	Quit() bool
}

// Deliverer carries what the engine says unasked. Its methods are called from
// goroutines of the engine, possibly from several at once, and must not block.
// What can't be delivered is dropped: the machine sends it again.
type Deliverer interface {
	Settle(core.Settle)
	AskVote(core.AskVote)
	Call(core.Call)
	Changed(core.Transaction)
}

// Config of an engine. The zero value is ready to use.
type Config struct {
	// Shards is the number of machines; 0: GOMAXPROCS.
	Shards int
	// Core holds limits and pauses. The engine fills in what the store knows,
	// and divides MaxOpen among the shards. They share MaxHeld; 0: a quarter of
	// GOMEMLIMIT, but 16 MiB at least, or 1 GiB where that is not set.
	Core core.Config
	// Queue bounds what may wait for one shard; 0: 8,192.
	Queue int
	// QueueBytes bounds the payloads and results in there; 0: a quarter of
	// Core.MaxHeld over all shards, but 4 MiB each at least.
	QueueBytes int64
	// Retention is how long finished transactions are kept; 0: 7 days.
	Retention time.Duration
	// ExpireEvery is the pause between two looks for what is too old; 0: 1 minute.
	ExpireEvery time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Fatal is told once, from a goroutine of its own, why the engine failed.
	Fatal func(error)
	// MaxWaits bounds the waits on behalf of a transaction, over all shards;
	// 0: 262,144.
	MaxWaits int
	// CrashPoint is called at each of the points above, from several goroutines,
	// for tests that kill the process there.
	CrashPoint func(point string)
	// Log; nil: slog.Default.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Shards <= 0 {
		c.Shards = runtime.GOMAXPROCS(0)
	}
	if c.Queue <= 0 {
		c.Queue = 8192
	}
	if c.Retention <= 0 {
		c.Retention = 7 * 24 * time.Hour
	}
	if c.ExpireEvery <= 0 {
		c.ExpireEvery = time.Minute
	}
	if c.MaxWaits <= 0 {
		c.MaxWaits = 1 << 18
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Core.MaxOpen <= 0 {
		c.Core.MaxOpen = 4_000_000
	}
	if c.Core.MaxHeld <= 0 {
		c.Core.MaxHeld = defaultHeld(debug.SetMemoryLimit(-1))
	}
	if c.QueueBytes <= 0 {
		c.QueueBytes = max(c.Core.MaxHeld/4/int64(c.Shards), 4<<20)
	}
	c.Core.MaxOpen = (c.Core.MaxOpen + c.Shards - 1) / c.Shards
	return c
}

// defaultHeld is the default of core.Config.MaxHeld. What is held takes up to twice
// that, for the garbage collector's sake, and once more while it is on its way: in
// a request, a batch of the store, a call.
func defaultHeld(memoryLimit int64) int64 {
	if memoryLimit == math.MaxInt64 { // not set
		return 1 << 30
	}
	return max(memoryLimit/4, 16<<20)
}

// Engine runs the machines. It is safe for concurrent use.
type Engine struct {
	cfg      Config
	st       store.Store
	meta     store.Meta // as it was at start
	identity Identity
	log      *slog.Logger
	clock    clock
	ids      ids
	shards   []*shard
	flusher  *flusher
	waits    *waitGraph
	deliver  Deliverer
	held     atomic.Int64 // bytes that open transactions hold, and room that is being asked for
	decided  uint64       // decisions the flusher has made durable; belongs to it

	dead     chan struct{} // closed when the engine has failed
	failOnce sync.Once
	failure  atomic.Pointer[error]

	quarantine sync.Mutex // one change at a time; guards the next two
	seen       Witness    // the highest that the store can't have reached
	accepted   Witness    // the highest such that an operator knew of

	started   atomic.Bool
	closeOnce sync.Once
	stopJobs  context.CancelFunc
	jobs      sync.WaitGroup // janitor
	loops     sync.WaitGroup // shards
	stopFlush chan struct{}
	flushes   sync.WaitGroup // flusher
}

// New reads the store's unfinished transactions back. Nothing runs until
// Start. The engine does not own the store: close it after the engine.
func New(ctx context.Context, st store.Store, cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	e := &Engine{
		cfg: cfg, st: st, meta: st.Meta(), log: cfg.Log,
		clock:     clock{now: cfg.Now},
		dead:      make(chan struct{}),
		stopFlush: make(chan struct{}),
	}
	e.ids.store, e.ids.incarnation = e.meta.Store, e.meta.Incarnation
	e.identity = Identity{StoreText: e.meta.Store.String(), Incarnation: e.meta.Incarnation}
	e.flusher = newFlusher(e)
	e.waits = newWaitGraph(e, cfg.MaxWaits)
	e.flusher.position = st.Position()
	cc := cfg.Core
	cc.Store, cc.Incarnation = e.meta.Store, e.meta.Incarnation
	cc.Horizon, cc.QuarantineBelow = e.meta.Horizon, e.meta.QuarantineBelow
	for range cfg.Shards {
		e.shards = append(e.shards, &shard{e: e, m: core.New(cc), q: newQueue(cfg.Queue, cfg.QueueBytes)})
	}
	if err := e.recover(ctx); err != nil {
		return nil, fmt.Errorf("read the open transactions back: %w", err)
	}
	for _, s := range e.shards {
		s.open.Store(int64(s.m.Open()))
		s.noteHeld()
	}
	if held := e.held.Load(); held > cfg.Core.MaxHeld {
		e.log.Warn("the open transactions hold more than they may: actions of new ones are refused until enough have ended",
			"bytes", held, "limit", cfg.Core.MaxHeld)
	}
	return e, nil
}

// recover hands every open transaction to its shard. The store decodes while
// the shards take in what it has read.
func (e *Engine) recover(ctx context.Context) error {
	const many = 512
	now := e.clock.Now()
	var restores sync.WaitGroup
	parts := make([][]core.Transaction, len(e.shards))
	feeds := make([]chan []core.Transaction, len(e.shards))
	for i, s := range e.shards {
		feeds[i] = make(chan []core.Transaction, 8)
		restores.Go(func() {
			for txs := range feeds[i] {
				for j := range txs {
					s.m.Restore(now, txs[j])
				}
			}
		})
	}
	err := e.st.Recover(ctx, func(tx core.Transaction) error {
		e.clock.raise(lastTime(&tx))
		e.waits.restore(&tx)
		i := shardOf(tx.XID, len(e.shards))
		if parts[i] = append(parts[i], tx); len(parts[i]) == many {
			feeds[i] <- parts[i]
			parts[i] = make([]core.Transaction, 0, many)
		}
		return nil
	})
	for i := range feeds {
		feeds[i] <- parts[i]
		close(feeds[i])
	}
	restores.Wait()
	return err
}

// lastTime is the latest moment that a transaction's records name.
func lastTime(tx *core.Transaction) time.Time {
	t := tx.XID.Begin()
	if tx.Decided.After(t) {
		t = tx.Decided
	}
	for i := range tx.Branches {
		if r := tx.Branches[i].Registered; r.After(t) {
			t = r
		}
	}
	return t
}

// Start sets everything going. It is called once.
func (e *Engine) Start(d Deliverer) {
	e.deliver = d
	e.started.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	e.stopJobs = cancel
	for _, s := range e.shards {
		// The first tick finds out when the machine wants the next.
		_ = s.q.add(item{in: core.Tick{}}, true)
		e.loops.Go(s.run)
	}
	e.flushes.Go(func() { e.flusher.run(e.stopFlush) })
	e.waits.start()
	e.jobs.Go(func() { e.expire(ctx) })
}

// Close does what is queued, forces the log and stops. Requests that still
// wait get no reply. It returns the error of a failed engine.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() {
		if !e.started.Load() {
			return
		}
		e.stopJobs()
		e.jobs.Wait()
		for _, s := range e.shards {
			s.q.close()
		}
		e.loops.Wait()
		close(e.stopFlush)
		e.flushes.Wait()
		if !e.isDead() {
			// Votes and the like were not forced yet; losing them would be
			// allowed, but there is no reason to.
			if err := e.flusher.flush(); err != nil {
				e.fail(err)
			}
		}
	})
	return e.Err()
}

// Dead is closed when the engine has failed.
func (e *Engine) Dead() <-chan struct{} { return e.dead }

// Err says why the engine failed, wrapping ErrFailed; nil while it has not.
func (e *Engine) Err() error {
	if p := e.failure.Load(); p != nil {
		return *p
	}
	return nil
}

func (e *Engine) isDead() bool {
	select {
	case <-e.dead:
		return true
	default:
		return false
	}
}

// fail ends the engine.
func (e *Engine) fail(err error) {
	e.failOnce.Do(func() {
		err = fmt.Errorf("%w: %w", ErrFailed, err)
		e.failure.Store(&err)
		close(e.dead)
		for _, s := range e.shards {
			s.q.close()
		}
		if e.cfg.Fatal != nil {
			go e.cfg.Fatal(err)
		}
	})
}

func (e *Engine) crash(point string) {
	if e.cfg.CrashPoint != nil {
		e.cfg.CrashPoint(point)
	}
}

// release lets one message out.
func (e *Engine) release(b core.Body) {
	if e.isDead() {
		return
	}
	switch b := b.(type) {
	case core.Reply:
		b.Ref.(Waiter).Reply(b, e.flusher.durablePosition())
	case core.Settle:
		e.deliver.Settle(b)
	case core.AskVote:
		e.deliver.AskVote(b)
	case core.Call:
		e.deliver.Call(b)
	case core.WaiterDone:
		e.waits.end(b)
	case core.Changed:
		e.deliver.Changed(b.Tx)
	}
}

func (e *Engine) shardOf(id xid.ID) *shard { return e.shards[shardOf(id, len(e.shards))] }

// Submit queues an input about one transaction. It fails at once with ErrFull,
// ErrStopped or an error that wraps ErrFailed; then there will be no reply.
func (e *Engine) Submit(in core.Input) error {
	id, _ := core.About(in)
	return e.stopped(e.shardOf(id).q.add(item{in: in}, false))
}

// SubmitWait is Submit that waits for room until ctx ends.
func (e *Engine) SubmitWait(ctx context.Context, in core.Input) error {
	id, _ := core.About(in)
	q := e.shardOf(id).q
	for {
		err := q.add(item{in: in}, false)
		if !errors.Is(err, ErrFull) {
			return e.stopped(err)
		}
		if err := q.waitRoom(ctx); err != nil {
			return e.stopped(err)
		}
	}
}

// Post queues an event for the shard of a transaction, or for every shard if
// the event is about none. It never waits and is never refused while the
// engine runs.
func (e *Engine) Post(in core.Input) {
	if c, ok := in.(core.Cancel); ok {
		e.waits.cancel(c.Ref)
	}
	if id, _ := core.About(in); !id.IsZero() {
		_ = e.shardOf(id).q.add(item{in: in}, true) // refused only when all is over
		return
	}
	for _, s := range e.shards {
		_ = s.q.add(item{in: in}, true) // refused only when all is over
	}
}

// Room waits until every shard's queue has room, or ctx ends.
func (e *Engine) Room(ctx context.Context) error {
	for _, s := range e.shards {
		if err := s.q.waitRoom(ctx); err != nil {
			return e.stopped(err)
		}
	}
	return nil
}

// stopped prefers the reason why the engine failed to the fact that it stopped.
func (e *Engine) stopped(err error) error {
	if errors.Is(err, ErrStopped) {
		if failure := e.Err(); failure != nil {
			return failure
		}
	}
	return err
}

// NewXID makes an XID that was never used, and tells the time it carries.
func (e *Engine) NewXID() (xid.ID, time.Time) {
	now := e.clock.Now()
	return e.ids.next(now), now
}

// Now is the engine's clock, which never goes back.
func (e *Engine) Now() time.Time { return e.clock.Now() }

// Identity is what an engine tells everybody of its store.
type Identity struct {
	StoreText   string // the store's id
	Incarnation uint32
}

// Identity does not change while the engine runs.
func (e *Engine) Identity() Identity { return e.identity }

// Meta is what the store knows of itself.
func (e *Engine) Meta() store.Meta { return e.st.Meta() }

// Open counts the transactions that are not finished.
func (e *Engine) Open() int {
	n := int64(0)
	for _, s := range e.shards {
		n += s.open.Load()
	}
	return int(n)
}

// Held is how many bytes the open transactions hold, and how many they may.
func (e *Engine) Held() (bytes, limit int64) { return e.held.Load(), e.cfg.Core.MaxHeld }

// SetWatch switches Deliverer.Changed on and off.
func (e *Engine) SetWatch(on bool) {
	for _, s := range e.shards {
		_ = s.q.add(item{do: func(m *core.Machine) { m.SetWatch(on) }}, true) // refused only when all is over
	}
}

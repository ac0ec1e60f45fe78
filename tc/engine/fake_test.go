package engine_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

const patience = 20 * time.Second

var testStore = xid.StoreID{7, 7, 7}

// memory is a store whose log says what of it is durable. A test can hold the
// forced writes, and make writes fail.
type memory struct {
	mu       sync.Mutex
	meta     store.Meta
	log      []core.Record
	finished map[xid.ID]core.Transaction
	position uint64
	durable  uint64
	flushes  uint64
	fail     error
	ends     map[uint32]uint64
	panics   bool

	hold    chan struct{} // a forced write waits until it is closed; nil: none does
	forcing chan struct{} // gets one when a forced write has begun
}

func newMemory() *memory {
	return &memory{
		meta:     store.Meta{Store: testStore, Incarnation: 2},
		finished: make(map[xid.ID]core.Transaction), ends: map[uint32]uint64{1: 10}, position: 10, durable: 10,
		forcing: make(chan struct{}, 1000),
	}
}

func (m *memory) Meta() store.Meta {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta
}

func (m *memory) Apply(b store.Batch, sync bool) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.panics {
		panic("planted")
	}
	if m.fail != nil {
		return 0, m.fail
	}
	m.log = append(m.log, b.Records...)
	for _, tx := range b.Finished {
		m.finished[tx.XID] = tx
	}
	m.position++
	pos := m.position
	if !sync {
		return pos, nil
	}
	m.forcing <- struct{}{}
	if hold := m.hold; hold != nil {
		m.mu.Unlock()
		<-hold
		m.mu.Lock()
		if m.fail != nil {
			return 0, m.fail
		}
	}
	m.durable = max(m.durable, pos)
	m.flushes++
	return pos, nil
}

func (m *memory) Recover(_ context.Context, fn func(core.Transaction) error) error {
	txs := map[xid.ID]*core.Transaction{}
	for _, r := range m.log {
		if txs[r.XID] == nil {
			txs[r.XID] = &core.Transaction{}
		}
		if err := core.Fold(txs[r.XID], r); err != nil {
			return err
		}
	}
	for _, tx := range txs {
		if tx.Phase != core.Finished {
			if err := fn(*tx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) Finished(id xid.ID) (core.Transaction, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tx, ok := m.finished[id]
	return tx, ok, m.fail
}

func (m *memory) ListFinished(_ context.Context, before xid.ID, fn func(core.Transaction) bool) error {
	m.mu.Lock()
	var all []core.Transaction
	for _, tx := range m.finished {
		if before.IsZero() || bytes.Compare(tx.XID[:], before[:]) < 0 {
			all = append(all, tx)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b core.Transaction) int { return bytes.Compare(b.XID[:], a.XID[:]) })
	for _, tx := range all {
		if !fn(tx) {
			break
		}
	}
	return nil
}

func (m *memory) Lookup(key string) (id xid.ID, found bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.log {
		if m.log[i].Kind == core.RecordBegin && m.log[i].Key == key {
			return m.log[i].XID, true, nil
		}
	}
	for _, tx := range m.finished {
		if tx.Key == key {
			return tx.XID, true, nil
		}
	}
	return id, false, nil
}

// What front-ends keep is none of the engine's business.
func (m *memory) Value(string, string) ([]byte, error)  { return nil, errors.ErrUnsupported }
func (m *memory) SetValue(string, string, []byte) error { return errors.ErrUnsupported }
func (m *memory) ListValues(context.Context, string, string, func(string, []byte) bool) error {
	return errors.ErrUnsupported
}

func (m *memory) Expire(_ context.Context, cutoff time.Time, limit int) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for id, tx := range m.finished {
		if n == limit || !tx.Finished.Before(cutoff) {
			continue
		}
		if b := id.Begin(); b.After(m.meta.Horizon) {
			m.meta.Horizon = b
		}
		delete(m.finished, id)
		n++
	}
	return n, nil
}

func (m *memory) Quarantine(below uint32, reason string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meta.QuarantineBelow, m.meta.QuarantineReason = below, reason
	return m.fail
}

func (m *memory) EndOf(incarnation uint32) (uint64, bool) {
	end, ok := m.ends[incarnation]
	return end, ok
}

func (m *memory) Position() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.position
}

func (m *memory) Flushes() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flushes
}

func (m *memory) Close() error { return nil }

func (m *memory) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *memory) durableNow() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.durable
}

// sink takes what is delivered.
type sink struct {
	settles chan core.Settle
	changed chan core.Transaction
}

func newSink() *sink {
	return &sink{settles: make(chan core.Settle, 1000), changed: make(chan core.Transaction, 1000)}
}

func (s *sink) Settle(c core.Settle)        { s.settles <- c }
func (s *sink) AskVote(core.AskVote)        {}
func (s *sink) Call(core.Call)              {}
func (s *sink) Changed(tx core.Transaction) { s.changed <- tx }

// waiter gets one reply.
type waiter struct{ ch chan got }

type got struct {
	core.Reply
	durable uint64
}

func newWaiter() *waiter { return &waiter{ch: make(chan got, 1)} }

func (w *waiter) Reply(r core.Reply, durable uint64) { w.ch <- got{r, durable} }

func (w *waiter) wait(tb testing.TB) got {
	tb.Helper()
	select {
	case g := <-w.ch:
		return g
	case <-time.After(patience):
		tb.Fatal("no reply")
		return got{}
	}
}

func (w *waiter) none(tb testing.TB) {
	tb.Helper()
	select {
	case g := <-w.ch:
		tb.Fatalf("a reply came: %+v", g)
	default:
	}
}

// run starts an engine over the store; it is closed with the test.
func run(tb testing.TB, st store.Store, change ...func(*engine.Config)) (*engine.Engine, *sink) {
	tb.Helper()
	cfg := engine.Config{Shards: 2, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	e, err := engine.New(context.Background(), st, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	s := newSink()
	e.Start(s)
	tb.Cleanup(func() { _ = e.Close() })
	return e, s
}

func submit(tb testing.TB, e *engine.Engine, in core.Input) {
	tb.Helper()
	if err := e.Submit(in); err != nil {
		tb.Fatal(err)
	}
}

func begin(tb testing.TB, e *engine.Engine) xid.ID {
	tb.Helper()
	w := newWaiter()
	id, now := e.NewXID()
	submit(tb, e, core.Begin{Ref: w, XID: id, Deadline: now.Add(time.Hour)})
	if r := w.wait(tb); r.Err != nil {
		tb.Fatal(r.Err)
	}
	return id
}

func register(tb testing.TB, e *engine.Engine, id xid.ID, branch byte) got {
	tb.Helper()
	w := newWaiter()
	submit(tb, e, core.Register{Ref: w, XID: id, Branch: xid.BranchID{branch}, Resource: resource, Mode: core.ModeAT})
	return w.wait(tb)
}

var resource = xid.ResourceID{0xd}

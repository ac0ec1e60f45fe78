package sim

import (
	"encoding/binary"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/waits"
	"github.com/handfast/handfast/xid"
)

// coordinator is one TC: real machines and a real graph of waits, and around them the
// loop of tc/engine, step by step, as events.
type coordinator struct {
	*node
	disk   *disk
	shards []*shard
	graph  *waits.Graph
	routes routes
	front  *front

	last     time.Time // engine.clock: never behind what was told or recorded
	read     time.Duration
	counter  uint64 // engine.ids
	position int    // engine.flusher: highest batch that was applied
	flushing bool
	wanted   bool

	adopted bool // by an operator, after it was restored

	old []*shard // of a planted fault only
}

// shard is engine.shard.
type shard struct {
	c       *coordinator
	m       *core.Machine
	queue   []core.Input
	set     bool // a run is in the queue of events
	wake    time.Time
	tick    uint64 // the newest timer
	records []core.Record
	done    []core.Transaction
	msgs    []core.Message
	loaded  []xid.ID

	applied uint64 // LSN
	durable uint64 // LSN
	pending []core.Message
}

// request is what waits for a reply: the engine's Waiter.
type request struct {
	reply func(core.Reply)
	gone  bool // engine.Quitter
	about core.Input
}

// of notes which request it is.
func (r *request) of(in core.Input) core.Input {
	r.about = in
	return in
}

// isGet tells whether it only asks.
func (r *request) isGet() bool {
	_, ok := r.about.(core.Get)
	return ok
}

func (w *world) newCoordinator(i int) *coordinator {
	c := &coordinator{node: w.newNode("tc", i)}
	c.disk = newDisk(xid.StoreID{byte(i + 1), 0x5e})
	return c
}

// shardOf is engine.shardOf.
func (c *coordinator) shardOf(id xid.ID) *shard {
	if c.old != nil && c.rng.below(3) == 0 {
		return c.old[int(binary.BigEndian.Uint64(id[27:35])%uint64(len(c.old)))]
	}
	return c.shards[int(binary.BigEndian.Uint64(id[27:35])%uint64(len(c.shards)))]
}

// boot is engine.New and Start.
func (c *coordinator) boot() {
	c.start()
	d := c.disk
	c.counter = 0
	if c.w.plant != plantSameIncarnation || d.incarnation == 0 {
		d.incarnation++ // forced before the first begin
	}
	if d.marked && c.w.plant != plantUnmarkedCopy {
		d.quarantine = d.incarnation
	}
	d.marked = false
	c.graph = waits.New(1 << 18)
	c.routes = routes{c: c, seen: map[int]*session{}}
	c.front = &front{c: c, gids: map[string]*gidLock{}}
	c.flushing, c.wanted = false, false
	c.position = len(d.log)
	c.shards = nil
	cfg := c.w.coreConfig()
	cfg.Store, cfg.Incarnation, cfg.Horizon, cfg.QuarantineBelow = d.id, d.incarnation, d.horizon, d.quarantine
	for range c.w.shards {
		c.shards = append(c.shards, &shard{c: c, m: core.New(cfg)})
	}
	all, err := d.recover()
	if err != nil {
		c.w.fail("%s can't start: %v", c.name, err)
		return
	}
	c.last, c.read = time.Time{}, c.w.now
	for i := range all {
		c.raise(lastTime(&all[i]))
	}
	c.note("starts", int(d.incarnation), len(all))
	var parents []xid.ID
	for _, tx := range all {
		if !tx.Parent.IsZero() && tx.Outcome == core.Undecided {
			c.graph.Child(tx.Parent, tx.XID)
			parents = append(parents, tx.Parent)
		}
		c.w.oracle.restored(c, &tx)
		tx = c.w.mutateRestored(tx)
		c.shardOf(tx.XID).m.Restore(c.Now(), tx)
	}
	for _, s := range c.shards {
		s.enqueue(core.Tick{})
	}
	for _, id := range parents {
		c.post(core.Waiting{XID: id})
	}
	c.after(time.Second, c.expire)
	c.after(routeSweep, c.routes.sweep)
}

// lastTime is engine.lastTime.
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

// Now is engine.clock.Now: where the clock was set back it goes on all the same.
func (c *coordinator) Now() time.Time {
	if c.w.plant != plantClockStands {
		c.last = c.last.Add(c.w.now - c.read)
	}
	c.read = c.w.now
	c.raise(c.wall())
	return c.last
}

func (c *coordinator) raise(t time.Time) {
	if t.After(c.last) {
		c.last = t
	}
}

// newXID is engine.ids.next. The random part is drawn from the seed, by whoever asks.
func (c *coordinator) newXID(random uint64) xid.ID {
	c.counter++
	p := xid.Parts{Begin: c.Now(), Incarnation: c.disk.incarnation, Store: c.disk.id, Counter: c.counter}
	binary.BigEndian.PutUint64(p.Random[4:], random)
	if c.w.plant == plantSameIncarnation {
		p.Begin = epoch
		binary.BigEndian.PutUint64(p.Random[4:], c.counter)
	}
	return xid.New(p)
}

// crash ends the process. What was not forced survives in part, or not at all.
func (c *coordinator) crash() {
	if c.up {
		c.endLife()
	}
}

func (c *coordinator) endLife() {
	tail := len(c.disk.log) - c.disk.durable
	keep := c.rng.below(tail + 1)
	if c.rng.below(2) == 0 {
		keep = 0
	}
	if c.w.plant == plantLostEpoch && len(c.shards) > 0 {
		keep = tail
		c.hang()
	}
	c.note("crashes", tail, keep)
	c.stop()
	c.disk.crash(keep)
	if c.w.plant == plantKeyLost {
		clear(c.disk.keys)
	}
	c.w.oracle.crashed(c)
	for _, s := range c.shards {
		s.pending = nil
	}
}

// post is engine.Post.
func (c *coordinator) post(in core.Input) {
	c.w.oracle.asks(in)
	if cancel, ok := in.(core.Cancel); ok {
		c.graph.End(cancel.Ref)
	}
	if id, _ := core.About(in); !id.IsZero() {
		c.shardOf(id).enqueue(in)
		return
	}
	for _, s := range c.shards {
		s.enqueue(in)
	}
}

func (s *shard) enqueue(in core.Input) {
	s.queue = append(s.queue, in)
	if !s.set {
		s.set = true
		s.c.after(s.c.rng.during(5*time.Microsecond, 60*time.Microsecond), s.step)
	}
}

// step is shard.step: everything that has queued, and what the time demands.
func (s *shard) step() {
	s.set = false
	now := s.c.Now()
	items := s.queue
	s.queue = nil
	for _, in := range items {
		s.lookUp(in)
		s.take(now, in)
		if s.c.w.failed != nil {
			return
		}
	}
	s.take(now, core.Tick{})
	s.commit()
}

func (s *shard) take(now time.Time, in core.Input) {
	if s.c.w.plant != plantNone {
		for _, in := range s.mutateInput(in) {
			s.collect(s.m.Step(now, in))
		}
		return
	}
	s.collect(s.m.Step(now, in))
}

// lookUp is shard.lookUp.
func (s *shard) lookUp(in core.Input) {
	id, asks := core.About(in)
	if !asks || s.m.Known(id) || id.Store() != s.c.disk.id || id.Incarnation() > s.c.disk.incarnation {
		return
	}
	tx, found, err := s.c.disk.lookUp(id)
	if err != nil {
		s.c.w.fail("look up %s: %v", short(id), err)
		return
	}
	if !found {
		s.collect(s.m.Step(s.c.Now(), core.Horizon{Time: s.c.disk.horizon}))
		return
	}
	s.m.Load(tx)
	s.loaded = append(s.loaded, id)
}

// collect is shard.collect.
func (s *shard) collect(out core.Output) {
	if s.c.w.plant != plantNone {
		out = s.mutateOutput(out)
	}
	s.records = append(s.records, out.Records...)
	s.done = append(s.done, out.Finished...)
	s.msgs = append(s.msgs, out.Messages...)
	s.c.noteWaits(out)
	s.wake = out.Wake
}

// commit is shard.commit: append what was gathered, and let the messages go.
func (s *shard) commit() {
	c := s.c
	if len(s.records)+len(s.done) > 0 {
		if c.w.diskFails(c) {
			c.dies()
			return
		}
		records, done := s.records, s.done
		if c.w.plant != plantNone {
			records, done = s.mutateBatch(records, done)
		}
		for i := range records {
			c.w.oracle.appended(c, &records[i])
		}
		if err := c.disk.apply(records, done); err != nil {
			c.w.fail("%s can't write: %v", c.name, err)
			return
		}
		c.position = len(c.disk.log)
		s.applied = s.m.LSN()
	}
	for i := range s.done {
		c.w.oracle.archived(c, &s.done[i])
		if c.w.plant == plantKeyDropped {
			delete(c.disk.keys, s.done[i].Key)
		}
		s.m.Evict(s.done[i].XID)
	}
	for _, id := range s.loaded {
		s.m.Evict(id)
	}
	s.letGo()
	clear(s.msgs)
	s.records, s.done, s.msgs, s.loaded = s.records[:0], s.done[:0], s.msgs[:0], s.loaded[:0]
	s.setTimer()
}

// setTimer is shard.sleep.
func (s *shard) setTimer() {
	s.tick++
	if s.wake.IsZero() {
		return
	}
	tick := s.tick
	s.c.after(max(s.wake.Sub(s.c.Now()), time.Millisecond), func() {
		if s.tick == tick && !s.set {
			s.step()
		}
	})
}

// letGo is shard.letGo.
func (s *shard) letGo() {
	waiting := false
	for _, msg := range s.msgs {
		switch {
		case msg.Need == 0, len(s.pending) == 0 && msg.Need <= s.durable, s.c.w.plant == plantReplyBeforeNeed:
			s.c.release(msg.Body)
		default:
			s.pending = append(s.pending, msg)
			waiting = true
		}
	}
	if waiting {
		s.c.wantFlush()
	}
}

// wantFlush is flusher.want and flusher.run: at most one forced write at a time.
func (c *coordinator) wantFlush() {
	if c.flushing {
		c.wanted = true
		return
	}
	c.flushing = true
	c.after(c.rng.during(0, time.Millisecond), c.flush)
}

// flush is flusher.flush: what was applied when it begins is durable when it ends.
func (c *coordinator) flush() {
	c.wanted = false
	lsn := make([]uint64, len(c.shards))
	for i, s := range c.shards {
		lsn[i] = s.applied
	}
	position := c.position
	c.after(c.w.diskDelay(c), func() {
		if c.w.diskFails(c) {
			c.dies()
			return
		}
		if c.w.plant != plantSkipFlush || c.rng.below(4) > 0 {
			c.disk.durable = max(c.disk.durable, position)
		}
		for i, s := range c.shards {
			s.flushed(lsn[i])
		}
		c.flushing = false
		if c.wanted {
			c.wantFlush()
		}
	})
}

// flushed is shard.flushed.
func (s *shard) flushed(lsn uint64) {
	s.durable = max(s.durable, lsn)
	n := 0
	for n < len(s.pending) && s.pending[n].Need <= s.durable {
		s.c.release(s.pending[n].Body)
		n++
	}
	s.pending = append(s.pending[:0:0], s.pending[n:]...)
}

// dies is what a failed write leads to: the process ends, and is started again.
func (c *coordinator) dies() {
	c.note("disk fails")
	c.w.count("disk failures")
	c.w.after(0, c.endLife)
	c.w.after(c.rng.during(100*time.Millisecond, time.Second), c.restart)
	c.up = false // nothing goes on meanwhile
}

// restoreCopy puts an older copy of the store in its place.
func (c *coordinator) restoreCopy(length int) {
	c.note("is restored from a copy", len(c.disk.log), length)
	c.w.oracle.restoredCopy(c)
	c.disk.restore(length)
	c.w.oracle.restoring = true
	c.w.oracle.crashed(c)
	c.w.oracle.restoring = false
}

func (c *coordinator) restart() {
	if !c.up {
		c.boot()
	}
}

// expire is engine.expire.
func (c *coordinator) expire() {
	cutoff := c.Now().Add(-c.w.retention)
	if c.w.plant == plantEarlyHorizon {
		cutoff = c.Now()
	}
	if dropped := c.disk.expire(cutoff); len(dropped) > 0 {
		c.note("expires", len(dropped))
		for _, id := range dropped {
			c.w.oracle.expired(id)
		}
		c.post(core.Horizon{Time: c.disk.horizon})
	}
	c.after(time.Second, c.expire)
}

// release is engine.release: one message leaves.
func (c *coordinator) release(b core.Body) {
	c.w.oracle.released(c, b)
	switch b := b.(type) {
	case core.Reply:
		if r, ok := b.Ref.(*request); ok {
			r.reply(b)
		}
	case core.Settle:
		c.routes.settle(b)
	case core.AskVote:
		c.routes.askVote(b)
	case core.Call:
		c.routes.call(b)
	case core.WaiterDone:
		for _, o := range c.graph.Of(b.XID) {
			c.post(core.EndWait{Ref: o.Token, XID: o.Holder, Err: b.Err})
		}
	}
}

// noteWaits is engine.waitGraph.collect and park.
func (c *coordinator) noteWaits(out core.Output) {
	for i := range out.Records {
		if r := &out.Records[i]; r.Kind == core.RecordBegin && !r.Parent.IsZero() {
			c.graph.Child(r.Parent, r.XID)
			c.post(core.Waiting{XID: r.Parent})
		}
	}
	for i := range out.Messages {
		if d, ok := out.Messages[i].Body.(core.WaiterDone); ok {
			c.graph.Decided(d.XID)
		}
	}
	for _, p := range out.Parked {
		if p.Over {
			c.graph.End(p.Ref)
			continue
		}
		c.park(p)
	}
}

func (c *coordinator) park(p core.Parked) {
	if q, ok := p.Ref.(*request); ok && q.gone {
		return
	}
	cycles, err := c.graph.Begin(waits.Wait{Token: p.Ref, Waiter: p.Waiter, Holder: p.Holder})
	if err != nil {
		c.post(core.EndWait{Ref: p.Ref, XID: p.Holder, Err: &core.Error{Kind: core.ErrLimit, XID: p.Waiter, Message: "too many wait"}})
		return
	}
	c.post(core.Waiting{XID: p.Waiter})
	for _, cycle := range cycles {
		c.w.count("deadlocks")
		c.note("deadlock", cycle.Victim)
		c.after(1500*time.Millisecond, func() { c.w.oracle.cycle(cycle) })
		if c.w.plant == plantNoVictim || c.w.plant == plantGraphPerShard && c.shardOf(p.Waiter) != c.shardOf(p.Holder) {
			continue
		}
		c.post(core.Break{XID: cycle.Victim, Cause: cycle.String()})
	}
}

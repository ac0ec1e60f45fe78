package sim

import (
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/waits"
	"github.com/handfast/handfast/xid"
)

// oracle sees everything and does nothing: it knows what each part was told and has
// done, and says when a promise is broken. fail is for promises, which somebody outside
// could see broken; rule is for the rules that they rest on.
type oracle struct {
	w     *world
	txs   map[xid.ID]*history
	order []*history
	books []*books // by database
	keys  map[string][]*history
	asked map[branchKey]bool // branches that somebody has asked for

	restoring bool // what is lost now is lost with a copy
	accident  bool // something beyond the promises happens in this run
}

// history is what is known of one transaction.
type history struct {
	id   xid.ID
	tc   *coordinator
	kind string
	key  string

	begun    int    // batch of the log, from 1; 0: not in the log
	born     uint32 // life of the coordinator that began it
	decision decision
	branches []member
	submit   int // batch
	told     core.Outcome
	before   core.Outcome // told by the store that there was, where an adoption changed it

	heard      time.Duration // when somebody had heard of the decision; 0: nobody
	submitTold bool          // the submission was acknowledged
	byHand     bool          // an operator meddled, so it may be half of what was meant
	abandoned  bool          // an operator gave calls up
	archived   time.Time
	expired    bool
	stuck      bool // it does not end, and that is shown
	keyTold    bool // it was acknowledged under its key
	reused     bool // so was another one, which was forgotten before it
	lost       bool // the store was restored: of this it may know less than was told

	adopted     bool     // and is the truth now
	forgot      bool     // it lacks something of this
	failed      bool     // a database lacks something of this, which failed over
	settledLost bool     // the same, and it was settled there
	alarmed     bool     // its coordinator was told that a database contradicts it
	reported    bool     // a janitor has said that nobody knows it
	everMembers []member // also those that are lost

	effects []effect // that stand, of all databases
	settled map[*database]bool
}

type decision struct {
	batch   int
	outcome core.Outcome
	reason  core.Reason
}

// member is one branch.
type member struct {
	id       xid.BranchID
	resource xid.ResourceID
	mode     core.Mode
	plan     *core.Plan
	batch    int
	vote     core.Vote
	voted    int  // batch
	done     bool // what phase two owed it was called
	told     bool // the registration was acknowledged
	voteTold bool // the vote was acknowledged, and nobody can be asked for it
}

// effect is one change of a row that was committed.
type effect struct {
	db       *database
	by       branchKey
	op       core.Op
	key, add int
	from, to string // tags

	family  bool // the row came, went or moved
	was, is row
}

func newOracle(w *world) *oracle {
	return &oracle{w: w, txs: map[xid.ID]*history{}, keys: map[string][]*history{}, asked: map[branchKey]bool{}}
}

func (o *oracle) of(c *coordinator, id xid.ID) *history {
	h := o.txs[id]
	if h == nil {
		h = &history{id: id, tc: c, settled: map[*database]bool{}}
		o.txs[id] = h
		o.order = append(o.order, h)
	}
	return h
}

func (h *history) member(b xid.BranchID) *member {
	for i := range h.branches {
		if h.branches[i].id == b {
			return &h.branches[i]
		}
	}
	return nil
}

// survives tells whether what is in a batch would survive a crash now.
func (h *history) survives(batch int) bool { return batch > 0 && batch <= h.tc.disk.durable }

// decided is the decision, if it would survive a crash.
func (h *history) decided() core.Outcome {
	if h.survives(h.decision.batch) {
		return h.decision.outcome
	}
	return core.Undecided
}

// appended sees each record on its way into the log.
func (o *oracle) appended(c *coordinator, r *core.Record) {
	h := o.of(c, r.XID)
	batch := len(c.disk.log) + 1
	switch r.Kind {
	case core.RecordBegin:
		if h.begun > 0 {
			o.w.fail("%s was begun twice", short(r.XID))
		}
		h.begun, h.born = batch, c.life
		if r.Key != "" {
			o.begunAs(h, r)
		}
		o.w.count("transactions begun")
	case core.RecordRegister:
		h.everMembers = append(h.everMembers, member{id: r.Branch, resource: r.Resource, mode: r.Mode, plan: r.Plan})
		h.branches = append(h.branches, member{id: r.Branch, resource: r.Resource, mode: r.Mode, plan: r.Plan, batch: batch, vote: r.Vote, voted: batch})
	case core.RecordVote:
		if m := h.member(r.Branch); m != nil {
			m.vote, m.voted = r.Vote, batch
		}
	case core.RecordSubmit:
		h.submit = batch
	case core.RecordDecide:
		if h.decision.batch > 0 {
			o.w.fail("%s is decided %s and then %s", short(r.XID), outcomeNames[h.decision.outcome], outcomeNames[r.Outcome])
		}
		h.decision = decision{batch: batch, outcome: r.Outcome, reason: r.Reason}
		c.note("decides", r.XID, r.Outcome)
		o.needless(h)
		o.w.count("decided " + outcomeNames[r.Outcome])
		if r.Reason == core.ReasonOperator && r.Operator == "" {
			o.w.fail("%s was rolled back by an operator, and the record does not say by whom", short(r.XID))
		}
		if r.Abandoned {
			h.abandoned = true
		}
	case core.RecordDone:
		if m := h.member(r.Branch); m != nil {
			m.done = true
		}
		if r.Abandoned {
			h.abandoned = true
		}
	}
}

// crashed sees what a coordinator has lost.
func (o *oracle) crashed(c *coordinator) {
	end := len(c.disk.log)
	for _, h := range o.order {
		if h.tc != c {
			continue
		}
		lost := func(batch int) bool { return batch > end }
		if h.told != core.Undecided && lost(h.decision.batch) && !h.lost {
			o.w.fail("%s: the coordinator has forgotten its decision %s, which it had told", short(h.id), outcomeNames[h.told])
		}
		if lost(h.decision.batch) || lost(h.submit) || lost(h.begun) {
			o.took(h)
		}
		if lost(h.decision.batch) {
			h.decision = decision{}
		}
		if h.submitTold && lost(h.submit) && !h.lost {
			o.w.fail("%s: the coordinator has forgotten a submission that it had acknowledged", short(h.id))
		}
		if lost(h.submit) {
			h.submit = 0
		}
		for i := range h.branches {
			m := &h.branches[i]
			if lost(m.batch) && m.told && !h.lost {
				o.w.fail("%s: the coordinator has forgotten branch %s, which it had acknowledged", short(h.id), m.id)
			}
			if lost(m.batch) || lost(m.voted) && m.resource == (xid.ResourceID{}) {
				o.took(h)
			}
			if lost(m.voted) {
				if m.voteTold && !h.lost {
					o.w.fail("%s: the coordinator has forgotten the vote of branch %s, which nobody can be asked for", short(h.id), m.id)
				}
				m.vote, m.voted = core.VoteNone, 0
			}
		}
		h.branches = slices.DeleteFunc(h.branches, func(m member) bool { return lost(m.batch) })
		if h.keyTold && lost(h.begun) && h.begun > 0 && !h.lost {
			o.w.fail("%s: the coordinator has forgotten what it had acknowledged as %q", short(h.id), h.key)
		}
		if lost(h.begun) {
			h.begun = 0
		}
	}
}

// restoredCopy sees a store replaced by an older copy.
func (o *oracle) restoredCopy(c *coordinator) {
	for _, h := range o.order {
		h.lost = h.lost || h.tc == c
	}
}

// restored compares what a coordinator reads back with what was told.
func (o *oracle) restored(c *coordinator, tx *core.Transaction) {
	h := o.of(c, tx.XID)
	if h.told != core.Undecided && tx.Outcome != h.told && !h.lost {
		o.w.fail("%s: told %s, and restored as %s", short(tx.XID), outcomeNames[h.told], outcomeNames[tx.Outcome])
	}
}

// released sees everything that leaves a coordinator.
func (o *oracle) released(c *coordinator, b core.Body) {
	switch b := b.(type) {
	case core.Reply:
		o.reply(c, b)
	case core.Settle:
		c.note("settle", b.XID, b.Outcome)
		o.tell(c, b.XID, b.Outcome)
	case core.WaiterDone:
		o.tellError(c, b.Err)
	case core.Call:
		c.note("call", b.XID, b.Branch, b.Op, int(b.Attempt))
		o.called(c, b)
	}
}

func (o *oracle) reply(c *coordinator, r core.Reply) {
	req, _ := r.Ref.(*request)
	if r.Err != nil {
		o.tellError(c, r.Err)
		if req != nil {
			if in, ok := req.about.(core.Register); ok {
				o.refusedAgain(in, r.Err)
			}
		}
		return
	}
	o.tell(c, r.Tx.XID, r.Tx.Outcome)
	if req == nil {
		return
	}
	h := o.of(c, r.Tx.XID)
	if r.Tx.Phase == core.Finished {
		o.carriedOut(h)
	}
	switch in := req.about.(type) {
	case core.Register:
		o.acknowledge(h, in.Branch)
	case core.Submit:
		h.submitTold = true
		if !h.survives(h.submit) {
			o.w.rule("%s: a submission is acknowledged before it is durable", short(h.id))
		}
		for _, b := range in.Branches {
			o.acknowledge(h, b.Branch)
		}
	case core.CastVote:
		m := h.member(in.Branch)
		if m == nil || m.resource != (xid.ResourceID{}) || h.decision.batch > 0 {
			return
		}
		m.voteTold = true
		if !h.survives(m.voted) {
			o.w.rule("%s: a vote that nobody can be asked for is acknowledged before it is durable", short(h.id))
		}
	}
}

// answers sees what a client gets to hear. Each transaction is a register that is
// written once: the history is linearizable if all read one value, and nobody reads that
// there is none who began to ask after somebody had heard of it.
func (o *oracle) answers(invoked time.Duration, r core.Reply) {
	id, decided := r.Tx.XID, r.Err == nil && r.Tx.Outcome != core.Undecided
	if r.Err != nil {
		id, decided = r.Err.XID, r.Err.Kind == core.ErrRolledBack || r.Err.Kind == core.ErrCommitted
		if !decided {
			return
		}
	}
	h := o.txs[id]
	switch {
	case h == nil:
	case h.adopted:
	case !decided && h.heard > 0 && h.heard < invoked:
		o.w.fail("%s: the decision was heard of at %s, and a request of %s is answered with undecided", short(id), h.heard, invoked)
	case decided && h.heard == 0:
		h.heard = o.w.now
	}
}

// carriedOut: what is told to be over is settled in every database.
func (o *oracle) carriedOut(h *history) {
	for i := range h.branches {
		m := &h.branches[i]
		d := o.w.databaseOf(m.resource)
		if d != nil && m.plan == nil && m.vote != core.VoteWithdrawn && !h.settled[d] && !h.settledLost {
			o.w.fail("%s is told to be carried out, and is not in %s", short(h.id), d.name)
		}
	}
}

func (o *oracle) acknowledge(h *history, b xid.BranchID) {
	m := h.member(b)
	if m == nil {
		o.w.fail("%s: branch %s is acknowledged and not in the log", short(h.id), b)
		return
	}
	m.told = true
	if !h.survives(m.batch) {
		o.w.rule("%s: a registration is acknowledged before it is durable", short(h.id))
	}
}

func (o *oracle) tellError(c *coordinator, e *core.Error) {
	switch e.Kind { //nolint:exhaustive // the others tell nothing of a decision
	case core.ErrRolledBack:
		o.tell(c, e.XID, core.RolledBack)
	case core.ErrCommitted:
		o.tell(c, e.XID, core.Committed)
	case core.ErrUnknownXID, core.ErrExpiredXID:
		h := o.txs[e.XID]
		if h != nil && !h.expired && !h.lost && h.survives(h.begun) {
			o.w.fail("%s is called unknown, and is in the log", short(e.XID))
		}
	}
}

// tell sees that somebody learns of a decision.
func (o *oracle) tell(c *coordinator, id xid.ID, outcome core.Outcome) {
	if outcome == core.Undecided {
		return
	}
	h := o.of(c, id)
	if h.told != core.Undecided && h.told != outcome && h.adopted && h.forgot {
		o.w.count("decisions that an adoption changed")
		h.before, h.told = h.told, core.Undecided
	}
	if h.told != core.Undecided && h.told != outcome {
		o.w.fail("%s: told %s, and then %s", short(id), outcomeNames[h.told], outcomeNames[outcome])
		return
	}
	if h.told == outcome {
		return
	}
	h.told = outcome
	if d := h.decision; d.batch == 0 || d.outcome != outcome {
		o.w.fail("%s: told %s, and decided was %s", short(id), outcomeNames[outcome], outcomeNames[d.outcome])
	} else if !h.survives(d.batch) {
		o.w.rule("%s: told %s before it is durable", short(id), outcomeNames[outcome])
	}
	if outcome == core.Committed {
		o.committed(h)
	}
}

// committed checks that a decision to commit stands on facts in databases.
func (o *oracle) committed(h *history) {
	for i := range h.branches {
		if h.beyond() {
			break // settling finds it, and says so
		}
		m := &h.branches[i]
		if m.vote != core.VoteYes && m.vote != core.VoteWithdrawn {
			o.w.fail("%s is committed, and branch %s has voted %s", short(h.id), m.id, voteNames[m.vote])
		}
		d := o.w.databaseOf(m.resource)
		if m.plan != nil || d == nil {
			continue
		}
		k := branchKey{h.id, m.id}
		f := d.fence[k]
		there := f.state == 'L' || f.state == 'C' || d.preparedOf(k) != nil
		switch {
		case m.vote == core.VoteYes && !there:
			o.w.fail("%s is committed, and branch %s has not committed in %s (fence %q)", short(h.id), m.id, d.name, f.state)
		case m.vote == core.VoteWithdrawn && there:
			o.w.fail("%s is committed, and branch %s has withdrawn, but not in %s", short(h.id), m.id, d.name)
		}
	}
}

// archived sees a transaction that is over.
func (o *oracle) archived(c *coordinator, tx *core.Transaction) {
	o.of(c, tx.XID).archived = tx.Finished
}

// expired sees that a transaction is forgotten.
func (o *oracle) expired(id xid.ID) {
	h := o.txs[id]
	if h == nil {
		return
	}
	h.expired = true
	if age := h.tc.Now().Sub(h.archived); age < o.w.retention {
		o.w.fail("%s is forgotten %s after its end", short(id), age.Truncate(time.Millisecond))
	}
}

// called checks the order of calls.
func (o *oracle) called(c *coordinator, m core.Call) {
	h := o.of(c, m.XID)
	if m.Key != h.key {
		o.w.fail("%s: branch %s is called under the key %q, and was begun as %q", short(m.XID), m.Branch, m.Key, h.key)
	}
	b := h.member(m.Branch)
	withdrew := b != nil && b.vote == core.VoteWithdrawn
	if m.Op == core.OpCommit && withdrew {
		o.w.fail("%s: branch %s withdrew, and is confirmed", short(m.XID), m.Branch)
	}
	if m.Op != core.OpForward && !withdrew { // what withdrew is undone whatever the outcome
		o.tell(c, m.XID, map[core.Op]core.Outcome{core.OpCommit: core.Committed, core.OpRollback: core.RolledBack}[m.Op])
	}
	if b == nil || b.plan == nil {
		return
	}
	// Where an attempt that was given up was answered with done after all, a later one
	// may be under way still; it has nothing left to do.
	if m.Op == core.OpRollback && b.vote != core.VoteYes && o.w.forwardUnderWay(m) {
		o.w.rule("%s: branch %s is compensated while its action is under way", short(m.XID), m.Branch)
	}
	o.callOrder(h, b, m.Op)
	for _, r := range m.Before {
		if len(r.Value) == 0 {
			o.w.fail("%s: branch %s is called without the result of a step before it", short(m.XID), m.Branch)
		}
	}
	want := 0
	for _, id := range b.plan.After {
		a := h.member(id)
		switch {
		case a == nil:
		case m.Op == core.OpForward && b.plan.Forward.Kind != core.TargetNone && h.decision.batch == 0 && a.vote != core.VoteYes && a.vote != core.VoteWithdrawn:
			o.w.rule("%s: branch %s is called before branch %s, which it comes after", short(m.XID), m.Branch, id)
		}
		if a != nil && a.plan != nil && a.plan.Forward.Kind != core.TargetNone && m.Op == core.OpForward && b.plan.Forward.Kind != core.TargetNone {
			want++
		}
	}
	if len(m.Before) < want {
		o.w.fail("%s: branch %s is called with %d results of %d steps before it", short(m.XID), m.Branch, len(m.Before), want)
	}
}

// callOrder: phase two settles databases before it calls anybody, and undoes steps
// before those that they came after.
func (o *oracle) callOrder(h *history, b *member, op core.Op) {
	if h.decision.batch == 0 || op == core.OpForward && b.plan.Forward.Kind != core.TargetNone {
		return
	}
	for i := range h.branches {
		m := &h.branches[i]
		d := o.w.databaseOf(m.resource)
		switch {
		case d != nil && m.plan == nil && m.vote != core.VoteWithdrawn && !h.settled[d] && !h.settledLost:
			o.w.rule("%s: branch %s is called before %s is settled", short(h.id), b.id, d.name)
		case op == core.OpRollback && h.decision.outcome == core.RolledBack && m.plan != nil && m.vote == core.VoteYes && m.plan.Rollback.Kind != core.TargetNone &&
			slices.Contains(m.plan.After, b.id) && !m.done && !h.abandoned:
			o.w.rule("%s: branch %s is compensated before branch %s, which came after it", short(h.id), b.id, m.id)
		}
	}
}

// cycle looks, a moment after a cycle of waits was found, whether it is broken.
func (o *oracle) cycle(c waits.Cycle) {
	if h := o.txs[c.Victim]; h != nil && h.begun > 0 && h.decision.batch == 0 {
		o.w.fail("a cycle of waits is not broken: %s is not decided", short(c.Victim))
	}
}

// answered sees the answer of user code.
func (o *oracle) answered(*service, core.Call, core.Called) {}

// alarm: what is in a database contradicts the decision, or can't be restored.
func (o *oracle) alarm(s *service, e *alarmError) {
	if h := o.txs[e.x]; h.beyond() {
		h.alarmed = true
		o.w.count("alarms after an accident")
		return
	}
	o.w.fail("%s: %s", s.name, e.what)
}

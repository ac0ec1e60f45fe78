package dtm

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// submitPatience is how long a transaction may lie between its begin and its submit,
// which come from one request: a crash may be in between.
const submitPatience = time.Minute

// operator is who gives calls up for a client.
const operator = "forceStop over DTM's API"

// service does what clients ask for, whatever it came over. It is safe for concurrent use.
type service struct {
	eng    *engine.Engine
	topics *topics
	// Requests about one gid that is new are one after another, or two of them would
	// begin a transaction each. Whoever has begun one stays until it can be found, even
	// where its client has gone: that one asks again.
	gids [4096]sync.Mutex
}

func newService(eng *engine.Engine, st store.Store) *service {
	return &service{eng: eng, topics: &topics{st: st, now: eng.Now}}
}

// newGid makes a gid that is unique and holds no word that clients look for.
func newGid() string {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	return strings.ToLower(base32.HexEncoding.EncodeToString(b[:]))
}

func (s *service) gid(gid string) *sync.Mutex {
	h := fnv.New32a()
	_, _ = h.Write([]byte(gid)) // never fails
	return &s.gids[h.Sum32()%uint32(len(s.gids))]
}

// ask makes a request of the core.
func (s *service) ask(ctx context.Context, build func(core.Ref) core.Input) (engine.Answer, error) {
	r, err := s.eng.Ask(ctx, func(ref core.Ref) (core.Input, error) { return build(ref), nil })
	if err == nil && r.Err != nil {
		err = r.Err
	}
	return r, err
}

// global is a transaction as this package knows it.
type global struct {
	core.Transaction
	note note
}

// find looks a transaction up by its gid. What it shows may still be lost: see
// engine.Peek.
func (s *service) find(ctx context.Context, gid string) (g global, found bool, err error) {
	id, found, err := s.eng.Lookup(gid)
	if err != nil || !found {
		return g, false, err
	}
	if g.Transaction, found, err = s.eng.Peek(ctx, id); err != nil || !found {
		return g, false, err
	}
	return g, true, g.readNote()
}

func (g *global) readNote() error {
	if err := json.Unmarshal(g.Note, &g.note); err != nil || g.note.Type == "" {
		return refuse(failure, "gid %s is the key of a transaction that did not come over DTM's API. FAILURE", g.Key)
	}
	return nil
}

// open finds the transaction of a request, or begins it.
func (s *service) open(ctx context.Context, r *request) (g global, began bool, err error) {
	ctx = context.WithoutCancel(ctx)
	lock := s.gid(r.Gid)
	lock.Lock()
	defer lock.Unlock()
	g, found, err := s.find(ctx, r.Gid)
	if err != nil || found {
		return g, false, err
	}
	id, now := s.eng.NewXID()
	g.note = r.note()
	begin, err := r.begin(id, now.Add(r.Options.timeout()), &g.note)
	if err != nil {
		return g, false, err
	}
	a, err := s.ask(ctx, func(ref core.Ref) core.Input { begin.Ref = ref; return begin })
	g.Transaction = a.Tx
	return g, true, err
}

// begin makes the begin of a request's transaction.
func (r *request) begin(id xid.ID, deadline time.Time, n *note) (core.Begin, error) {
	b, err := json.Marshal(n)
	return core.Begin{XID: id, Name: "dtm " + string(r.Type), Key: r.Gid, Note: b, Deadline: deadline}, err
}

// start finds the transaction of a request, or begins it and hands its branches over, all
// durable when it returns. Where a crash came between the two, it goes on.
func (s *service) start(ctx context.Context, r *request, plan func(xid.ID) ([]core.Register, error), deadline time.Time) (g global, began bool, err error) {
	id, now := s.eng.NewXID()
	branches, err := plan(id)
	if err != nil {
		return g, false, err
	}
	ctx = context.WithoutCancel(ctx)
	lock := s.gid(r.Gid)
	lock.Lock()
	defer lock.Unlock()
	g, found, err := s.find(ctx, r.Gid)
	switch {
	case err != nil, found && (g.Submitted || g.Outcome != core.Undecided || g.joins(r) != nil):
		return g, false, err
	case found:
		if branches, err = plan(g.XID); err == nil {
			err = s.submitBranches(ctx, &g, branches, deadline)
		}
		return g, true, err
	}
	g.note, g.XID, g.Key = r.note(), id, r.Gid
	begin, err := r.begin(id, now.Add(submitPatience), &g.note)
	if err != nil {
		return g, false, err
	}
	// Not waited for: its shard takes one after the other, mostly in one batch.
	refused := make(first, 1)
	begin.Ref = refused
	if err := s.eng.Submit(begin); err != nil {
		return g, false, err
	}
	err = s.submitBranches(ctx, &g, branches, deadline)
	var e *core.Error
	if errors.As(err, &e) && e.Kind == core.ErrUnknownXID {
		if reply := <-refused; reply.Err != nil { // it was answered before
			err = reply.Err
		}
	}
	return g, true, err
}

// first holds the reply to a request that is followed by another.
type first chan core.Reply

// Reply implements engine.Waiter.
func (f first) Reply(r core.Reply, _ uint64) { f <- r }

// joins tells whether a request may go on with a transaction that was begun before.
func (g *global) joins(r *request) error {
	switch {
	case g.note.Type != r.Type:
		return refuse(failure, "gid %s is that of a %s, not of a %s. FAILURE", g.Key, g.note.Type, r.Type)
	case !g.note.same(r):
		return refuse(failure, "gid %s is used already, with other content. FAILURE", g.Key)
	}
	return nil
}

// prepare begins a transaction that is submitted or aborted later.
func (s *service) prepare(ctx context.Context, r *request) error {
	if err := r.check(); err != nil {
		return err
	}
	switch r.Type {
	case tcc, xa, msg:
	case saga, workflow:
		return wrong("trans_type", "a %s is not prepared", r.Type)
	}
	var g global
	var began bool
	var err error
	if r.Type == msg {
		g, began, err = s.start(ctx, r, s.prepared(r), time.Time{})
	} else {
		g, began, err = s.open(ctx, r)
	}
	if err != nil || began {
		return err // without a branch there is nothing to lose
	}
	if st := g.status(); st != prepared {
		err = refuse(failure, "current status '%s', cannot prepare. FAILURE", st)
	} else {
		err = g.joins(r)
	}
	return s.told(ctx, &g, err)
}

// prepared gives the branches of a message that waits for its submit.
func (s *service) prepared(r *request) func(xid.ID) ([]core.Register, error) {
	return func(id xid.ID) ([]core.Register, error) {
		p := newPlanner(id, r.Protocol, &r.Options)
		check, err := p.checkBack(r)
		if err != nil {
			return nil, err
		}
		out, err := p.deliveries(r, 0, s.topics.addresses)
		return append([]core.Register{check}, out...), err
	}
}

// submitBranches hands all of a transaction over. What was begun for nothing is rolled
// back, for nobody else would.
func (s *service) submitBranches(ctx context.Context, g *global, branches []core.Register, deadline time.Time) error {
	_, err := s.ask(ctx, func(ref core.Ref) core.Input {
		return core.Submit{Ref: ref, XID: g.XID, Branches: branches, Deadline: deadline}
	})
	var e *core.Error
	switch {
	case errors.As(err, &e) && e.Kind == core.ErrLimit:
		_ = s.eng.Submit(core.Rollback{Ref: nobody{}, XID: g.XID, Cause: e.Message}) // or its deadline does
	case errors.As(err, &e) && e.Kind == core.ErrRolledBack:
		err = refuse(failure, "current status '%s', cannot sumbmit. FAILURE", failed)
	}
	return err
}

// told gives err when what it rests on is durable, although it was only peeked at.
func (s *service) told(ctx context.Context, g *global, err error) error {
	if _, e := s.get(ctx, g.XID); e != nil {
		return e
	}
	return err
}

// nobody waits for a reply.
type nobody struct{}

// Reply implements engine.Waiter.
func (nobody) Reply(core.Reply, uint64) {}

// submit asks for all of a transaction, or joins it where that was asked before.
func (s *service) submit(ctx context.Context, r *request) error {
	if r.Type == workflow {
		return s.submitWorkflow(ctx, r)
	}
	if err := r.check(); err != nil {
		return err
	}
	var g global
	var err error
	switch r.Type {
	case saga:
		g, err = s.submitSaga(ctx, r)
	case msg:
		g, err = s.submitMessage(ctx, r)
	case tcc, xa, workflow:
		g, err = s.submitPhases(ctx, r)
	}
	if err != nil || !r.Options.WaitResult {
		return err
	}
	return s.wait(ctx, g.XID, r)
}

// submittable tells whether a transaction that exists may still be submitted, or was.
func (g *global) submittable(r *request) error {
	if st := g.status(); st != prepared && st != submitted {
		return refuse(failure, "current status '%s', cannot sumbmit. FAILURE", st)
	}
	return g.joins(r)
}

// submitAgain is about a submit of what is there already: joined where that was submitted
// before, too.
func (s *service) submitAgain(ctx context.Context, g *global, r *request) (joined bool, err error) {
	err = g.submittable(r)
	joined = g.Submitted && g.status() == submitted
	if err != nil || joined {
		err = s.told(ctx, g, err)
	}
	return joined, err
}

func (s *service) submitSaga(ctx context.Context, r *request) (g global, err error) {
	plan := func(id xid.ID) ([]core.Register, error) { return newPlanner(id, r.Protocol, &r.Options).saga(r) }
	var deadline time.Time
	if t := r.Options.TimeoutToFail; t > 0 {
		deadline = s.eng.Now().Add(seconds(t))
	}
	g, began, err := s.start(ctx, r, plan, deadline)
	if err == nil && !began {
		_, err = s.submitAgain(ctx, &g, r)
	}
	return g, err
}

func (s *service) submitMessage(ctx context.Context, r *request) (g global, err error) {
	delay, err := r.delayOf()
	if err != nil {
		return g, err
	}
	plan := func(id xid.ID) ([]core.Register, error) {
		return newPlanner(id, r.Protocol, &r.Options).deliveries(r, delay, s.topics.addresses)
	}
	g, began, err := s.start(ctx, r, plan, time.Time{})
	if err != nil || began {
		return g, err
	}
	if joined, err := s.submitAgain(ctx, &g, r); err != nil || joined {
		return g, err
	}
	a, err := s.vote(ctx, g.XID, core.CastVote{Vote: core.VoteYes, Delay: delay})
	if err == nil && a.Tx.Outcome == core.RolledBack {
		err = refuse(failure, "current status '%s', cannot sumbmit. FAILURE", failed)
	}
	return g, err
}

// vote casts the vote of the branch that stands for the sender, or the workflow.
func (s *service) vote(ctx context.Context, id xid.ID, v core.CastVote) (engine.Answer, error) {
	return s.ask(ctx, func(ref core.Ref) core.Input {
		v.Ref, v.XID, v.Branch = ref, id, xid.BranchOf(id, zero)
		return v
	})
}

// submitPhases commits what has its branches already. DTM lets a submit begin it, too.
func (s *service) submitPhases(ctx context.Context, r *request) (g global, err error) {
	g, began, err := s.open(ctx, r)
	if err == nil && !began {
		_, err = s.submitAgain(ctx, &g, r)
	}
	if err != nil {
		return g, err
	}
	a, err := s.ask(ctx, func(ref core.Ref) core.Input { return core.Commit{Ref: ref, XID: g.XID} })
	if err == nil && a.Tx.Outcome == core.RolledBack {
		err = refuse(failure, "current status '%s', cannot sumbmit. FAILURE", aborting)
	}
	return g, err
}

// abort rolls back what was prepared.
func (s *service) abort(ctx context.Context, r *request) error {
	g, err := s.known(ctx, r.Gid)
	if err != nil {
		return err
	}
	no := func(st status) error {
		return s.told(ctx, &g, refuse(failure, "trans type: '%s' current status '%s', cannot abort. FAILURE", g.note.Type, st))
	}
	st := g.status()
	switch {
	case g.note.Type == msg && st == prepared && g.Submitted:
		a, err := s.vote(ctx, g.XID, core.CastVote{Vote: core.VoteNo, Reason: cut(r.RollbackReason)})
		if err == nil && a.Tx.Outcome == core.Committed {
			return no(submitted)
		}
		return err
	case g.note.Type != tcc && g.note.Type != xa && g.note.Type != msg, st != prepared && st != aborting:
		return no(st)
	}
	_, err = s.ask(ctx, func(ref core.Ref) core.Input {
		return core.Rollback{Ref: ref, XID: g.XID, Cause: cut(r.RollbackReason)}
	})
	var e *core.Error
	if errors.As(err, &e) && e.Kind == core.ErrCommitted {
		return no(submitted)
	}
	if err != nil || !r.Options.WaitResult && !g.note.Options.WaitResult {
		return err
	}
	return s.wait(ctx, g.XID, nil)
}

// maxReason bounds the reason of a client, in bytes.
const maxReason = 64 << 10

func cut(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}

// known is find for a transaction that has to be there.
func (s *service) known(ctx context.Context, gid string) (global, error) {
	if err := checkGid(gid); err != nil {
		return global{}, err
	}
	g, found, err := s.find(ctx, gid)
	if err == nil && !found {
		err = refuse(other, "no TransGlobal with gid: %s found", gid)
	}
	return g, err
}

// wait waits for the end, or until all that is left is to try again later, or for a
// little longer than a call may take. r is that of a submit; nil: of an abort.
func (s *service) wait(ctx context.Context, id xid.ID, r *request) error {
	until := s.eng.Now().Add(defaultRequest + 2*time.Second)
	if r != nil {
		until = s.eng.Now().Add(r.Options.request() + 2*time.Second)
	}
	a, err := s.ask(ctx, func(ref core.Ref) core.Input {
		return core.Wait{Ref: ref, XID: id, Until: until, Finished: true, OrStalled: true}
	})
	if err != nil {
		return err
	}
	g := global{Transaction: a.Tx}
	if err := g.readNote(); err != nil {
		return err
	}
	switch st := g.status(); {
	case st == succeed, r == nil && st == failed:
		return nil
	case r != nil && (st == failed || st == aborting):
		reason := g.reason()
		if !strings.Contains(reason, "FAILURE") {
			reason = strings.TrimSpace(reason + " FAILURE")
		}
		return refuse(failure, "%s", reason)
	default:
		return refuse(ongoing, "%s. ONGOING", g.unfinished())
	}
}

// unfinished says in words what a transaction waits for.
func (g *global) unfinished() string {
	text := fmt.Sprintf("gid %s is not finished yet", g.Key)
	for i := range g.Branches {
		if why := g.Branches[i].Forward.LastError; why != "" && g.Outcome == core.Undecided {
			return fmt.Sprintf("%s; branch %s: %s", text, g.Branches[i].Name, why)
		}
	}
	for i := range g.Settlements {
		if t := &g.Settlements[i]; !t.Done && t.LastError != "" {
			return fmt.Sprintf("%s; %s", text, t.LastError)
		}
	}
	return text
}

// registerBranch adds a branch of TCC or XA, or the result of a step of a workflow.
func (s *service) registerBranch(ctx context.Context, gid string, t transType, d map[string]string, payload []byte) error {
	if err := checkGid(gid); err != nil {
		return err
	}
	if err := checkWord("branch_id", d["branch_id"]); err != nil {
		return err
	}
	switch t {
	case tcc, xa:
	case workflow:
		if err := checkStep(d); err != nil {
			return err
		}
	case saga, msg:
		return wrong("trans_type", "a %s has the branches that it was submitted with", t)
	default:
		return refuse(other, "unknow trans type: %.40s", string(t))
	}
	late := refuse(failure, "no trans with gid: %s status: %s found FAILURE", gid, prepared)
	g, found, err := s.find(ctx, gid)
	switch {
	case err != nil:
		return err
	case !found:
		return late
	case g.status() != prepared:
		return s.told(ctx, &g, late)
	case g.note.Type != t:
		return refuse(failure, "gid %s is that of a %s, not of a %s. FAILURE", gid, g.note.Type, t)
	}
	p := newPlanner(g.XID, g.note.Protocol, &g.note.Options)
	var b core.Register
	before := g.named(d["branch_id"]) // never that of a step of a workflow, whose names have an op
	switch t {                        //nolint:exhaustive // the others were refused
	case tcc:
		b, err = p.confirm(d, payload, g.last())
	case xa:
		b, err = p.second(d)
	case workflow:
		b = p.progress(d, payload)
	}
	if err != nil {
		return err
	}
	if before != nil && reflect.DeepEqual(before.Plan.Commit, b.Plan.Commit) && reflect.DeepEqual(before.Plan.Rollback, b.Plan.Rollback) {
		return s.told(ctx, &g, nil) // clients send again what broke off before the answer
	}
	_, err = s.ask(ctx, func(ref core.Ref) core.Input { b.Ref, b.XID = ref, g.XID; return b })
	var e *core.Error
	if errors.As(err, &e) {
		switch e.Kind { //nolint:exhaustive // the others are as they are
		case core.ErrCommitted, core.ErrRolledBack:
			return late
		case core.ErrBranchConflict:
			return refuse(other, "branch_id: %s of gid %s is registered already", b.Name, gid)
		}
	}
	return err
}

func checkStep(d map[string]string) error {
	if err := checkWord("op", d["op"]); err != nil {
		return err
	}
	if strings.Contains(d["op"], "-") {
		return wrong("op", "%.100q holds a \"-\"", d["op"])
	}
	if st := d["status"]; st != string(succeed) && st != string(failed) {
		return wrong("status", "%.40q; want succeed or failed", st)
	}
	return nil
}

// last is the branch that was registered last; none where there is none.
func (g *global) last() []xid.BranchID {
	if n := len(g.Branches); n > 0 {
		return []xid.BranchID{g.Branches[n-1].ID}
	}
	return nil
}

// prepareWorkflow begins a workflow, or gives what is known of it.
func (s *service) prepareWorkflow(ctx context.Context, r *request) (g global, err error) {
	if err := r.check(); err != nil {
		return g, err
	}
	if r.Type != workflow {
		return g, wrong("trans_type", "%.40q; want workflow", string(r.Type))
	}
	g, began, err := s.start(ctx, r, func(id xid.ID) ([]core.Register, error) {
		b, err := newPlanner(id, r.Protocol, &r.Options).callBack(r)
		return []core.Register{b}, err
	}, time.Time{})
	switch {
	case err != nil || began:
		return g, err
	case g.note.Type != workflow:
		return g, s.told(ctx, &g, refuse(failure, "gid %s is that of a %s, not of a workflow. FAILURE", r.Gid, g.note.Type))
	}
	return s.get(ctx, g.XID) // durable, before anybody acts on it
}

// get gives a transaction as it is, durably.
func (s *service) get(ctx context.Context, id xid.ID) (g global, err error) {
	a, err := s.ask(ctx, func(ref core.Ref) core.Input { return core.Get{Ref: ref, XID: id} })
	if err != nil {
		return g, err
	}
	g.Transaction = a.Tx
	return g, g.readNote()
}

// submitWorkflow takes the result of a workflow, which its client decides.
func (s *service) submitWorkflow(ctx context.Context, r *request) error {
	if err := checkGid(r.Gid); err != nil {
		return err
	}
	v := core.CastVote{Fresh: true, Vote: core.VoteYes, Result: []byte(r.Extra["result"])}
	switch st := r.Extra["status"]; st {
	case string(succeed):
	case string(failed):
		v.Vote, v.Reason = core.VoteNo, cut(r.Extra["rollback_reason"])
	default:
		return wrong("req_extra.status", "%.40q; want succeed or failed", st)
	}
	gone := refuse(other, "storage: NotFound: no workflow with gid %s and status prepared", r.Gid)
	g, found, err := s.find(ctx, r.Gid)
	switch {
	case err != nil:
		return err
	case !found:
		return gone
	case g.note.Type != workflow || g.status() != prepared:
		return s.told(ctx, &g, gone)
	}
	_, err = s.vote(ctx, g.XID, v)
	var e *core.Error
	if errors.As(err, &e) && (e.Kind == core.ErrWrongState || e.Kind == core.ErrUnknownBranch) {
		return gone
	}
	return err
}

// forceStop ends a transaction as failed, and calls nobody any more.
func (s *service) forceStop(ctx context.Context, gid string) error {
	g, err := s.known(ctx, gid)
	if err != nil {
		return err
	}
	if st := g.status(); st == succeed || st == failed {
		return s.told(ctx, &g, refuse(failure, "global transaction force stop error. status: %s. error: FAILURE", st))
	}
	_, err = s.ask(ctx, func(ref core.Ref) core.Input {
		return core.Abandon{Ref: ref, XID: g.XID, Cause: "stopped by force", Operator: operator}
	})
	return err
}

// retryNow makes the next attempt of all calls due at once.
func (s *service) retryNow(ctx context.Context, gid string) error {
	g, err := s.known(ctx, gid)
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, func(ref core.Ref) core.Input { return core.RetryNow{Ref: ref, XID: g.XID} })
	return err
}

// retryLate is retryNow for open transactions whose next attempt is later than after.
func (s *service) retryLate(ctx context.Context, after time.Duration, limit int) (done int, more bool, err error) {
	late := s.eng.Now().Add(after)
	open, _, err := s.eng.List(ctx, xid.ID{}, limit+1, func(t *core.Transaction) bool {
		next := nextCall(t)
		return t.Key != "" && t.Phase != core.Finished && next != nil && next.Next.After(late)
	})
	if err != nil {
		return 0, false, err
	}
	for i := range open[:min(limit, len(open))] {
		if _, err := s.ask(ctx, func(ref core.Ref) core.Input { return core.RetryNow{Ref: ref, XID: open[i].XID} }); err != nil {
			return done, true, err
		}
		done++
	}
	return done, len(open) > limit, nil
}

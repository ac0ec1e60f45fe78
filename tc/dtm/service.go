package dtm

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"hash/fnv"
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
	if err := g.readNote(); err != nil {
		return g, true, s.durable(ctx, id, err)
	}
	return g, true, nil
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
	return core.Begin{XID: id, Name: nameOf(r.Type, r.Gid), Key: r.Gid, Note: b, Deadline: deadline}, err
}

// nameOf is what people see in lists. Lists of this package read the type in it: a note
// may be long.
func nameOf(t transType, gid string) string { return "dtm " + string(t) + " " + gid }

// start finds the transaction of a request, or begins it and hands its branches over, all
// durable when it returns. Where a crash came between the two, it goes on.
func (s *service) start(ctx context.Context, r *request, plan func(xid.ID) ([]core.Register, error), deadline time.Time) (g global, began bool, err error) {
	ctx = context.WithoutCancel(ctx)
	lock := s.gid(r.Gid)
	lock.Lock()
	defer lock.Unlock()
	g, found, err := s.find(ctx, r.Gid)
	if err != nil || found && (g.Submitted || g.Outcome != core.Undecided || g.joins(r) != nil) {
		return g, false, err
	}
	id, now := s.eng.NewXID()
	if found {
		id = g.XID
	}
	branches, err := plan(id)
	switch {
	case err != nil:
		return g, false, err
	case found:
		return g, true, s.submitBranches(ctx, &g, branches, deadline)
	}
	g.note, g.XID, g.Key = r.note(), id, r.Gid
	begin, err := r.begin(id, now.Add(submitPatience), &g.note)
	if err != nil {
		return g, false, err
	}
	if err := s.room(begin, core.Submit{Branches: branches}); err != nil {
		return g, false, err
	}
	// Not waited for: its shard takes one after the other, mostly in one batch.
	refused := make(first, 1)
	begin.Ref = refused
	if err := s.eng.Submit(begin); err != nil {
		return g, false, err
	}
	if err = s.submitBranches(ctx, &g, branches, deadline); err != nil {
		// Whoever comes next has to find what was begun, even where the queue was full
		// between the two.
		select {
		case reply := <-refused:
			if reply.Err != nil {
				err = reply.Err
			}
		case <-s.eng.Dead():
		}
	}
	return g, true, err
}

// room refuses a new transaction that there is no room for before it is begun: a client
// that is told to try again does so with the same gid. The last eighth is for what has
// branches already, as in the core, which has the last word.
func (s *service) room(inputs ...core.Input) error {
	held, limit := s.eng.Held()
	need := int64(0)
	for _, in := range inputs {
		need += core.Weight(in)
	}
	if need > limit-limit/8-held {
		return refuse(busy, "no room for %d bytes: open transactions hold %d bytes (limit %d); try again", need, held, limit)
	}
	return nil
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
	case r.Type == workflow:
		return g.goesOn(r)
	case !g.note.same(r):
		return refuse(failure, "gid %s is used already, with other content. FAILURE", g.Key)
	}
	return nil
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
	return s.durable(ctx, g.XID, err)
}

func (s *service) durable(ctx context.Context, id xid.ID, err error) error {
	if _, e := s.ask(ctx, func(ref core.Ref) core.Input { return core.Get{Ref: ref, XID: id} }); e != nil {
		return e
	}
	return err
}

// nobody waits for a reply.
type nobody struct{}

// Reply implements engine.Waiter.
func (nobody) Reply(core.Reply, uint64) {}

// vote casts the vote of the branch that stands for the sender, or the workflow.
func (s *service) vote(ctx context.Context, id xid.ID, v core.CastVote) (engine.Answer, error) {
	return s.ask(ctx, func(ref core.Ref) core.Input {
		v.Ref, v.XID, v.Branch = ref, id, xid.BranchOf(id, zero)
		return v
	})
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

// get gives a transaction as it is, durably.
func (s *service) get(ctx context.Context, id xid.ID) (g global, err error) {
	a, err := s.ask(ctx, func(ref core.Ref) core.Input { return core.Get{Ref: ref, XID: id} })
	if err != nil {
		return g, err
	}
	g.Transaction = a.Tx
	return g, g.readNote()
}

package api

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// hub knows all sessions and which resources they serve.
type hub struct {
	a    *API
	work sync.WaitGroup // goroutines of sessions
	jobs sync.WaitGroup
	stop chan struct{}
	once sync.Once

	examiners *examiners

	mu       sync.RWMutex
	sessions map[*session]struct{}
	routes   map[xid.ResourceID]*route
	leaving  bool          // draining
	empty    chan struct{} // closed when the last session has left while draining
}

// route is the sessions that serve one resource.
type route struct {
	sessions []*session
	turn     atomic.Uint32
}

func newHub(a *API) *hub {
	return &hub{
		a: a, stop: make(chan struct{}), examiners: newExaminers(),
		sessions: make(map[*session]struct{}),
		routes:   make(map[xid.ResourceID]*route),
		empty:    make(chan struct{}),
	}
}

func (h *hub) start() { h.jobs.Go(h.sweep) }

// sweep ends sessions whose client takes no data.
func (h *hub) sweep() {
	every := max(h.a.cfg.StuckAfter/10, 10*time.Millisecond)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-h.stop:
			return
		}
		limit := time.Now().Add(-h.a.cfg.StuckAfter).UnixNano()
		h.mu.RLock()
		for s := range h.sessions {
			if t := s.sending.Load(); t != 0 && t < limit {
				s.end(refusal(codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_LIMIT,
					"the client takes no data", "limit", h.a.cfg.StuckAfter.String()).Err())
			}
		}
		h.mu.RUnlock()
	}
}

func (h *hub) isDraining() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.leaving
}

// add lets a session in.
func (h *hub) add(s *session) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.leaving:
		return draining()
	case len(h.sessions) >= h.a.cfg.MaxSessions:
		return limit(h.a.cfg.MaxSessions, "the coordinator has %d sessions", len(h.sessions))
	}
	h.sessions[s] = struct{}{}
	return nil
}

// remove forgets a session. What was sent to it is made due again: where
// another session serves the resource, that one gets it at once, and its calls after
// a pause.
func (h *hub) remove(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
	for r := range s.resources {
		h.drop(s, r)
	}
	for _, c := range s.lose() {
		h.a.eng.Post(core.Called{
			XID: c.xid, Branch: c.branch, Op: c.op, Attempt: c.attempt, Verdict: core.Unsure, Text: "the process that was called has gone",
		})
	}
	if h.leaving && len(h.sessions) == 0 {
		h.closeEmpty()
	}
}

func (h *hub) closeEmpty() {
	select {
	case <-h.empty:
	default:
		close(h.empty)
	}
}

// drop takes a session off a route. The caller holds h.mu, which keeps the
// events about a resource in order.
func (h *hub) drop(s *session, r xid.ResourceID) {
	delete(s.resources, r)
	rt := h.routes[r]
	if rt == nil {
		return
	}
	rt.sessions = slices.DeleteFunc(rt.sessions, func(o *session) bool { return o == s })
	if len(rt.sessions) == 0 {
		delete(h.routes, r)
		h.a.eng.Post(core.Detached{Resource: r})
		return
	}
	h.a.eng.Post(core.Detached{Resource: r, Others: true})
}

// attach adds resources to a session, all or none.
func (h *hub) attach(s *session, m *pb.Attach) error {
	resources, err := h.checkAttach(m)
	if err != nil {
		return err
	}
	if err := h.a.eng.Room(s.ctx); err != nil {
		return engineError(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, live := h.sessions[s]; !live {
		return draining()
	}
	news := 0
	for r := range resources {
		if s.resources[r] == nil {
			news++
		}
	}
	if most := h.a.cfg.MaxResources; len(s.resources)+news > most {
		return limit(most, "this session is attached to %d resources; %d more are too many", len(s.resources), news)
	}
	for r, ar := range resources {
		if s.resources[r] == nil {
			rt := h.routes[r]
			if rt == nil {
				rt = &route{}
				h.routes[r] = rt
			}
			rt.sessions = append(rt.sessions, s)
		}
		s.resources[r] = ar
		h.a.eng.Post(core.Attached{Resource: r})
	}
	return nil
}

func (h *hub) checkAttach(m *pb.Attach) (map[xid.ResourceID]*pb.AttachedResource, error) {
	switch n := len(m.GetResources()); {
	case n == 0:
		return nil, invalid("resources", "is empty")
	case n > maxAttached:
		return nil, invalid("resources", "%d resources, at most %d", n, maxAttached)
	}
	resources := make(map[xid.ResourceID]*pb.AttachedResource, len(m.GetResources()))
	var beyond error
	for _, ar := range m.GetResources() {
		r, err := parseResource("resources.resource_id", ar.GetResourceId())
		if err != nil {
			return nil, err
		}
		if err := checkName("resources.name", ar.GetName()); err != nil {
			return nil, err
		}
		if n := len(ar.GetWitnesses()); n > maxWitnesses {
			return nil, invalid("resources.witnesses", "%d witnesses, at most %d", n, maxWitnesses)
		}
		for _, pw := range ar.GetWitnesses() {
			w, err := parseWitness("resources.witnesses", pw)
			if err != nil {
				return nil, err
			}
			if err := h.a.eng.CheckWitness(w); err != nil && beyond == nil {
				beyond = err
			}
		}
		resources[r] = &pb.AttachedResource{ResourceId: r.String(), Name: ar.GetName(), Witnesses: ar.GetWitnesses()}
	}
	return resources, engineError(beyond)
}

// detach withdraws resources of a session; others than its own are ignored.
func (h *hub) detach(s *session, m *pb.Detach) error {
	if n := len(m.GetResourceIds()); n > maxResourceDetach {
		return invalid("resource_ids", "%d resources, at most %d", n, maxResourceDetach)
	}
	ids := make([]xid.ResourceID, 0, len(m.GetResourceIds()))
	for _, t := range m.GetResourceIds() {
		r, err := parseResource("resource_ids", t)
		if err != nil {
			return err
		}
		ids = append(ids, r)
	}
	if err := h.a.eng.Room(s.ctx); err != nil {
		return engineError(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range ids {
		if s.resources[r] != nil {
			h.drop(s, r)
		}
	}
	return nil
}

// settle hands a command to the next session of the resource that can take it.
func (h *hub) settle(c core.Settle) { h.command(c.Resource, &c, nil) }

func (h *hub) askVote(c core.AskVote) { h.command(c.Resource, nil, &c) }

func (h *hub) command(r xid.ResourceID, settle *core.Settle, ask *core.AskVote) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	rt := h.routes[r]
	if rt == nil {
		return // the engine hears of it, and sends again when one attaches
	}
	n := uint32(len(rt.sessions))
	turn := rt.turn.Add(1)
	for i := range n {
		if rt.sessions[(turn+i)%n].command(r, settle, ask) {
			return
		}
	}
}

// call hands a call to the next session of the resource that can take it.
func (h *hub) call(r xid.ResourceID, c handled, f *pb.ServerFrame) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	rt := h.routes[r]
	if rt == nil {
		return // the engine hears of it, and calls again when one attaches
	}
	n := uint32(len(rt.sessions))
	turn := rt.turn.Add(1)
	for i := range n {
		if rt.sessions[(turn+i)%n].call(c, f) {
			return
		}
	}
}

// drain asks all sessions to leave and waits for it until ctx ends.
func (h *hub) drain(ctx context.Context) {
	h.mu.Lock()
	h.leaving = true
	if len(h.sessions) == 0 {
		h.closeEmpty()
	}
	for s := range h.sessions {
		s.finishing(drained)
	}
	h.mu.Unlock()
	select {
	case <-h.empty:
	case <-h.a.eng.Dead():
	case <-ctx.Done():
		h.endAll()
	}
}

func (h *hub) endAll() {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for s := range h.sessions {
		s.end(draining())
	}
}

func (h *hub) close() {
	h.once.Do(func() { close(h.stop) })
	h.jobs.Wait()
	h.endAll()
	h.work.Wait()
}

// clients describes all sessions, by name.
func (h *hub) clients() []*pb.AttachedClient {
	h.mu.RLock()
	defer h.mu.RUnlock()
	out := make([]*pb.AttachedClient, 0, len(h.sessions))
	for s := range h.sessions {
		s.mu.Lock()
		c := &pb.AttachedClient{Name: s.name, Since: wireTime(s.since)}
		s.mu.Unlock()
		for _, ar := range s.resources {
			c.Resources = append(c.Resources, ar)
		}
		slices.SortFunc(c.Resources, func(a, b *pb.AttachedResource) int {
			return strings.Compare(a.GetResourceId(), b.GetResourceId())
		})
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *pb.AttachedClient) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

package histories

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// gidHistory is what the clients of one gid did and were told, and how its branches were
// called.
type gidHistory struct {
	gid     string
	mode    gidMode
	steps   int // of a saga or message
	timeout time.Duration
	begun   int64
	crashes bool
	at      string // where its branches are called
	says    bool   // what the sender of a message answers
	refuses int    // which action of a saga fails; -1: none

	mu   sync.Mutex
	ops  []porcupine.Operation
	seen map[gidInput]bool // what was noted of calls; once says all
}

func (h *gidHistory) note(who int, call, ret int64, in gidInput, out gidOutput) {
	in.mode, in.steps, in.crashes = h.mode, h.steps, h.crashes
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: who, Input: in, Call: call, Output: out, Return: ret})
}

// once notes what a call of a branch tells, the first time.
func (h *gidHistory) once(call, ret int64, in gidInput) {
	h.mu.Lock()
	before := h.seen[in]
	h.seen[in] = true
	h.mu.Unlock()
	if !before {
		h.note(settler, call, ret, in, gidOutput{})
	}
}

func (h *gidHistory) url(op gidOp, b int) string { return fmt.Sprintf("%s/%s/%d", h.at, op, b) }

// request is what every request about the gid says.
func (h *gidHistory) request() gidRequest {
	r := gidRequest{Gid: h.gid, TransType: h.mode, Timeout: timeoutOf(h.timeout), RetryInterval: 1}
	for b := range h.steps {
		step := map[string]string{"action": h.url(opDeliver, b)}
		if h.mode == modeSaga {
			step = map[string]string{"action": h.url(opAction, b), "compensate": h.url(opCompensate, b)}
		}
		r.Steps, r.Payloads = append(r.Steps, step), append(r.Payloads, "{}")
	}
	if h.mode == modeMsg {
		r.QueryPrepared = h.url(opAsk, 0)
	}
	return r
}

// check asks whether one transaction could have told all of this.
func (h *gidHistory) check(limit time.Duration) (porcupine.CheckResult, []porcupine.Operation) {
	h.mu.Lock()
	ops := slices.Clone(h.ops)
	h.mu.Unlock()
	return porcupine.CheckOperationsTimeout(gidModel, ops, limit), ops
}

// tell lists operations in the order of their beginning.
func (h *gidHistory) tell(ops []porcupine.Operation) string {
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	fmt.Fprintf(&b, "gid %s, a %s, times in ms:\n", h.gid, h.mode)
	for _, op := range ops {
		until := "never"
		if op.Return != endOfTime {
			until = fmt.Sprintf("%.3f", float64(op.Return-h.begun)/1e6)
		}
		fmt.Fprintf(&b, "  %10.3f to %10s  client %d %s\n", float64(op.Call-h.begun)/1e6, until, op.ClientId, op.Input.(gidInput).describe(op.Output.(gidOutput)))
	}
	return b.String()
}

// gidBranches stand for the services whose URLs are called.
type gidBranches struct {
	*httptest.Server
	mu   sync.Mutex
	all  map[string]*gidHistory
	life int // of the coordinator; odd: its power is cut
	// Planted faults: told changes what the coordinator is answered, and heard what is noted
	// of a call.
	told  func(op gidOp, status int) int
	heard func(gidOp) gidOp
	// mute is what is answered without having been done.
	mute gidOp
}

func newGidBranches(t *testing.T) *gidBranches {
	t.Helper()
	b := &gidBranches{
		all: map[string]*gidHistory{}, told: func(_ gidOp, status int) int { return status }, heard: func(op gidOp) gidOp { return op },
	}
	b.Server = httptest.NewUnstartedServer(b)
	b.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, lifeKey{}, b.now())
	}
	b.Start()
	t.Cleanup(b.Close)
	return b
}

// lifeKey is of the life in which a connection was made.
type lifeKey struct{}

func (s *gidBranches) now() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life
}

// next ends a life, or begins one. What comes in between, or over a connection of before,
// was sent by one whose power is cut, and who knows what no disk remembers.
func (s *gidBranches) next() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life++
}

func (s *gidBranches) follow(h *gidHistory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[h.gid] = h
}

func (s *gidBranches) forget(h *gidHistory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, h.gid)
}

// ServeHTTP is one call of a branch: it notes it, decides, notes what it did, and answers;
// or says that it is busy, breaks, or hangs up before or after that.
func (s *gidBranches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h, alive := s.all[r.URL.Query().Get("gid")], r.Context().Value(lifeKey{}) == s.life && s.life%2 == 0
	now := clock()
	s.mu.Unlock()
	if !alive {
		panic(http.ErrAbortHandler)
	}
	if h == nil {
		return // its history is closed
	}
	name, number, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	op := s.heard(gidOp(name))
	b, err := strconv.Atoi(number)
	if err != nil {
		http.Error(w, "no such branch", http.StatusNotFound)
		return
	}
	h.once(now, now, gidInput{do: foundCalled, op: op, branch: b})
	if sometimes(8) {
		w.WriteHeader([]int{http.StatusTooEarly, http.StatusInternalServerError}[rand.IntN(2)])
		return
	}
	status := http.StatusOK
	if op != s.mute {
		status = h.answer(op, b)
	}
	status = s.told(op, status)
	if sometimes(4) {
		panic(http.ErrAbortHandler) // done, and nobody hears of it
	}
	w.WriteHeader(status)
}

// answer decides and notes it.
func (h *gidHistory) answer(op gidOp, b int) (status int) {
	now := clock()
	no := op == opAction && b == h.refuses || op == opAsk && !h.says
	in := gidInput{do: gidDone, op: op, branch: b}
	switch op {
	case opAsk:
		in.do, in.yes = gidSays, h.says
	case opAction:
		if in.do = gidYes; no {
			in.do = gidNo
		} else {
			h.once(now, now, gidInput{do: gidHappens, op: op, branch: b})
		}
	case opCompensate, opConfirm, opCancel, opDeliver:
	}
	h.once(now, endOfTime, in)
	if no {
		return http.StatusConflict
	}
	return http.StatusOK
}

package histories

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"
)

// wrongPost changes an answer of some endpoints.
type wrongPost struct {
	gidDoor
	f func(ctx context.Context, d gidDoor, endpoint string, r gidRequest) (gidReply, error)
}

func (w wrongPost) post(ctx context.Context, endpoint string, r gidRequest) (gidReply, error) {
	return w.f(ctx, w.gidDoor, endpoint, r)
}

// wrongQuery changes what is shown.
type wrongQuery struct {
	gidDoor
	f func(gidShown) gidShown
}

func (w wrongQuery) query(ctx context.Context, gid string) (gidShown, error) {
	s, err := w.gidDoor.query(ctx, gid)
	if err == nil {
		s = w.f(s)
	}
	return s, err
}

// staleDoor shows what it has shown before.
type staleDoor struct {
	gidDoor
	mu    sync.Mutex
	heard map[string]gidShown
}

func (s *staleDoor) query(ctx context.Context, gid string) (gidShown, error) {
	s.mu.Lock()
	old, ok := s.heard[gid]
	s.mu.Unlock()
	if ok && sometimes(30) {
		return old, nil
	}
	a, err := s.gidDoor.query(ctx, gid)
	if err == nil {
		s.mu.Lock()
		s.heard[gid] = a
		s.mu.Unlock()
	}
	return a, err
}

var gidOK = gidReply{http.StatusOK, ""}

// forgiving says yes to what an endpoint refuses.
func forgiving(name string) func(gidDoor) gidDoor {
	return posting(func(ctx context.Context, d gidDoor, endpoint string, r gidRequest) (gidReply, error) {
		a, err := d.post(ctx, endpoint, r)
		if endpoint == name && a.status == http.StatusConflict {
			a = gidOK
		}
		return a, err
	})
}

// deafTo says yes and does nothing.
func deafTo(name string) func(gidDoor) gidDoor {
	return posting(func(ctx context.Context, d gidDoor, endpoint string, r gidRequest) (gidReply, error) {
		if endpoint == name && sometimes(30) {
			return gidOK, nil
		}
		return d.post(ctx, endpoint, r)
	})
}

func posting(f func(context.Context, gidDoor, string, gidRequest) (gidReply, error)) func(gidDoor) gidDoor {
	return func(d gidDoor) gidDoor { return wrongPost{d, f} }
}

// showing turns one status into another, now and then.
func showing(from, as string, percent int) func(gidDoor) gidDoor {
	return func(d gidDoor) gidDoor {
		return wrongQuery{d, func(s gidShown) gidShown {
			if s.status == from && sometimes(percent) {
				s.status = as
			}
			return s
		}}
	}
}

// Each of these coordinators is wrong in one way, or calls branches as it should not, and
// has to be found out.
func TestPlantedFaultsOfGidsAreFound(t *testing.T) {
	t.Parallel()
	swapped := func(from, to gidOp) func(*gidBranches) {
		return func(b *gidBranches) {
			b.heard = func(op gidOp) gidOp {
				if op == from {
					return to
				}
				return op
			}
		}
	}
	answering := func(at gidOp, status int) func(*gidBranches) {
		return func(b *gidBranches) {
			b.told = func(op gidOp, s int) int {
				if op == at {
					return status
				}
				return s
			}
		}
	}
	faults := map[string]struct {
		door     func(gidDoor) gidDoor
		branches func(*gidBranches)
		lies     bool // the disk
		late     bool // it is about timeouts
	}{
		"answers from a stale cache":                  {door: func(d gidDoor) gidDoor { return &staleDoor{gidDoor: d, heard: map[string]gidShown{}} }},
		"shows prepared of what is submitted":         {door: showing("submitted", "prepared", 100)},
		"shows the end before branches are called":    {door: showing("submitted", "succeed", 100)},
		"shows a failure before it is undone":         {door: showing("aborting", "failed", 100)},
		"shows the other outcome":                     {door: showing("failed", "succeed", 5)},
		"goes on after the end":                       {door: showing("succeed", "submitted", 30)},
		"forgets what it has shown":                   {door: showing("prepared", "", 20)},
		"loses a branch":                              {door: func(d gidDoor) gidDoor { return wrongQuery{d, loseBranch} }},
		"takes a submit after the abort":              {door: forgiving("submit")},
		"takes an abort after the submit":             {door: forgiving("abort")},
		"takes a branch that is too late":             {door: forgiving("registerBranch")},
		"prepares again what is decided":              {door: forgiving("prepare")},
		"acknowledges a submit that it does not make": {door: deafTo("submit")},
		"acknowledges an abort that it does not make": {door: deafTo("abort")},
		"acknowledges a branch that it has not":       {door: deafTo("registerBranch")},
		"is impatient": {door: posting(func(ctx context.Context, d gidDoor, endpoint string, r gidRequest) (gidReply, error) {
			if r.Timeout > 1 && endpoint != "registerBranch" && r.TransType == modeTCC {
				r.Timeout = 1
			}
			a, err := d.post(ctx, endpoint, r)
			if endpoint == "prepare" && r.TransType == modeTCC && sometimes(20) {
				<-time.After(1500 * time.Millisecond) // a slow answer, during which it loses its patience
			}
			return a, err
		})},
		"gives the same gid twice":                       {door: func(d gidDoor) gidDoor { return &oneGid{gidDoor: d} }},
		"cancels what is committed":                      {branches: swapped(opConfirm, opCancel)},
		"compensates what succeeds":                      {branches: swapped(opAction, opCompensate)},
		"asks the sender before the timeout":             {branches: swapped(opDeliver, opAsk)},
		"confirms what is aborted":                       {branches: swapped(opCancel, opConfirm)},
		"delivers what is aborted":                       {branches: swapped(opAsk, opDeliver), late: true},
		"does not listen to the sender":                  {branches: hardOfHearing, late: true},
		"rolls a saga back that nobody refused":          {branches: answering(opAction, http.StatusConflict)},
		"goes on with a saga that was refused":           {branches: answering(opAction, http.StatusOK)},
		"leaves out a compensation":                      {branches: func(b *gidBranches) { b.mute = opCompensate }},
		"leaves out a confirmation":                      {branches: func(b *gidBranches) { b.mute = opConfirm }},
		"leaves out a cancellation":                      {branches: func(b *gidBranches) { b.mute = opCancel }},
		"leaves out a delivery":                          {branches: func(b *gidBranches) { b.mute = opDeliver }},
		"succeeds although an action was never answered": {branches: func(b *gidBranches) { b.mute = opAction }},
		"acknowledges what is not on disk":               {lies: true},
	}
	for _, name := range someOf(faults) {
		planted := faults[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sum := &counts{}
			var w *gidWorld
			var c coordinator
			if planted.lies {
				w, c = newDyingGidWorld(t, startPowered(t, true), sum)
			} else {
				w = newGidWorld(t, undying(t), sum)
			}
			if planted.late {
				w.late = 60
			}
			if planted.branches != nil {
				planted.branches(w.branches)
			}
			for i := range w.doors {
				if planted.door != nil {
					w.doors[i] = planted.door(w.doors[i])
				}
			}
			w.least = leastToFind
			w.play(t, c, 20*time.Second)
			if len(w.failed) == 0 {
				t.Fatalf("it is not found: %v", sum.all())
			}
			t.Logf("found after %d gids", sum.get("gids"))
			if testing.Verbose() {
				t.Logf("%s", w.failed[0])
			}
		})
	}
}

// loseBranch shows one less.
func loseBranch(s gidShown) gidShown {
	if sometimes(20) {
		delete(s.branches, stepID(0))
	}
	return s
}

// hardOfHearing hears the opposite of what the sender says.
func hardOfHearing(b *gidBranches) {
	b.told = func(op gidOp, s int) int {
		if op == opAsk {
			return map[int]int{http.StatusOK: http.StatusConflict, http.StatusConflict: http.StatusOK}[s]
		}
		return s
	}
}

// oneGid gives each gid twice.
type oneGid struct {
	gidDoor
	mu   sync.Mutex
	last string
}

func (o *oneGid) newGid(ctx context.Context) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if gid := o.last; gid != "" {
		o.last = ""
		return gid, nil
	}
	gid, err := o.gidDoor.newGid(ctx)
	o.last = gid
	return gid, err
}

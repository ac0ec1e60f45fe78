package caller

import (
	"container/list"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/handfast/handfast/internal/address"
	"github.com/handfast/handfast/tc/core"
)

// maxWaiting bounds all lines together.
const maxWaiting = 1 << 16

// job is one call from when it was handed over until it is answered.
type job struct {
	call     core.Call
	to       address.Address
	timeout  time.Duration
	deadline time.Time
	host     *host
	place    *list.Element // in host.waiting; nil where it does not wait
	expiry   *time.Timer   // while it waits
}

// host is what one host and port has to do.
type host struct {
	name     string
	underWay int
	waiting  list.List // of *job
	ready    bool      // it is in lines.ready
}

// lines decides which job goes out when. It knows no network.
//
//	        room for it
//	admit ───────────────► under way ── end ──► gives the jobs that can go now
//	  │ └──► line of host ─────▲  │ for too long
//	  │ full                      └─────── take ──► out
//	  └──► refused
//
// It is safe for concurrent use.
type lines struct {
	calls, perHost, perLine int // limits

	mu       sync.Mutex
	hosts    map[string]*host // those with a job
	ready    []*host          // whose jobs wait only for what others use, in turn
	underWay int
	waiting  int
	closed   bool
	open     sync.WaitGroup // jobs that were admitted and not answered, and goroutines
}

// admit takes a job in: it is to start at once, or waits in its line, or is refused for
// a reason. expire makes the timer of a job that waits. A job that is not refused is in
// open, and once more if it starts: for its goroutine.
func (l *lines) admit(j *job, expire func() *time.Timer) (start bool, refused string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, closing
	}
	h := l.hosts[j.to.Host]
	if h == nil {
		h = &host{name: j.to.Host}
		l.hosts[h.name] = h
	}
	j.host = h
	switch {
	case h.waiting.Len() == 0 && l.room(h):
		l.open.Add(2)
		l.start(h)
		return true, ""
	case h.waiting.Len() >= l.perLine:
		refused = fmt.Sprintf("too many calls to %s wait: %d", h.name, h.waiting.Len())
	case l.waiting >= maxWaiting:
		refused = fmt.Sprintf("too many calls wait: %d", l.waiting)
	default:
		l.open.Add(1)
		l.waiting++
		j.place = h.waiting.PushBack(j)
		j.expiry = expire()
	}
	l.update(h)
	return false, refused
}

// end is the end of a job that was under way. It gives those that start now; they and
// their goroutines are in open, but for the goroutine of the first, which is that of the
// job that ended.
func (l *lines) end(h *host) []*job {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay--
	h.underWay--
	l.update(h)
	var next []*job
	for l.underWay < l.calls {
		i := slices.IndexFunc(l.ready, l.room)
		if i < 0 {
			break
		}
		h := l.ready[i]
		j := h.waiting.Front().Value.(*job)
		l.remove(j)
		l.start(h)
		// To the end, for it was its turn.
		l.ready = slices.Delete(l.ready, i, i+1)
		h.ready = false
		l.update(h)
		if len(next) > 0 {
			l.open.Add(1)
		}
		next = append(next, j)
	}
	return next
}

// take takes a job out of its line, and tells how many are under way to its host, and
// in all. It is not there if it has started, or all is over.
func (l *lines) take(j *job) (there bool, toHost, all int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if j.place == nil {
		return false, 0, 0
	}
	l.remove(j)
	l.update(j.host)
	return true, j.host.underWay, l.underWay
}

// close refuses all further jobs, and gives those that wait.
func (l *lines) close() []*job {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var out []*job
	for _, h := range l.hosts {
		for h.waiting.Len() > 0 {
			j := h.waiting.Front().Value.(*job)
			l.remove(j)
			out = append(out, j)
		}
		l.update(h)
	}
	return out
}

// room tells whether another job of a host may start. The last quarter of all calls is
// for hosts with none under way, so that a few hosts that hang can't keep out the rest.
func (l *lines) room(h *host) bool {
	most := l.calls
	if h.underWay > 0 {
		most -= l.calls / 4
	}
	return l.underWay < most && h.underWay < l.perHost
}

func (l *lines) start(h *host) {
	l.underWay++
	h.underWay++
}

func (l *lines) remove(j *job) {
	j.host.waiting.Remove(j.place)
	j.place = nil
	j.expiry.Stop()
	l.waiting--
}

// update puts a host to where it belongs now.
func (l *lines) update(h *host) {
	switch ready := h.waiting.Len() > 0 && h.underWay < l.perHost; {
	case ready && !h.ready:
		l.ready = append(l.ready, h)
		h.ready = true
	case !ready && h.ready:
		l.ready = slices.DeleteFunc(l.ready, func(other *host) bool { return other == h })
		h.ready = false
	}
	if h.underWay == 0 && h.waiting.Len() == 0 {
		delete(l.hosts, h.name)
	}
}

//go:build unix

package chaos

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxPairs bounds the connections of a link: a caller that tries again and again while
// nothing goes through gets no further ones.
const maxPairs = 300

// trouble is what is wrong with a link. The zero value is health.
type trouble struct {
	refused bool          // who connects is hung up on
	hold    [2]bool       // nothing goes there, or back; nobody is told
	delay   time.Duration // of each piece
	reset   bool          // connections break once some more bytes have passed
	after   int64         // so many
}

// link is the way from one part to another: a proxy that can go wrong.
type link struct {
	name string
	to   string
	lis  net.Listener
	wg   sync.WaitGroup

	mu      sync.Mutex
	now     trouble
	changed chan struct{} // closed when now changes
	left    atomic.Int64  // bytes to the next reset
	pairs   map[*pair]struct{}
	closed  bool
}

// pair is a connection and its continuation.
type pair struct {
	in, out *net.TCPConn
	gone    chan struct{}
	once    sync.Once
}

// abort ends both with a reset.
func (p *pair) abort() {
	p.once.Do(func() {
		close(p.gone)
		for _, c := range []*net.TCPConn{p.in, p.out} {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	})
}

func newLink(name, listen, to string) (*link, error) {
	lis, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	l := &link{name: name, to: to, lis: lis, changed: make(chan struct{}), pairs: map[*pair]struct{}{}}
	l.wg.Go(l.accept)
	return l, nil
}

func (l *link) port() int { return l.lis.Addr().(*net.TCPAddr).Port }

func (l *link) accept() {
	for {
		c, err := l.lis.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors, for example
			continue
		}
		l.wg.Go(func() { l.carry(c.(*net.TCPConn)) })
	}
}

// set makes the link go wrong, or well. Connections are broken if that is asked for.
func (l *link) set(t trouble, breakAll bool) {
	l.mu.Lock()
	l.now = t
	l.left.Store(t.after)
	close(l.changed)
	l.changed = make(chan struct{})
	var broken []*pair
	if breakAll || t.refused {
		for p := range l.pairs {
			broken = append(broken, p)
		}
	}
	l.mu.Unlock()
	for _, p := range broken {
		p.abort()
	}
}

func (l *link) state() (trouble, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now, l.changed
}

func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	_ = l.lis.Close()
	l.set(trouble{refused: true}, true)
	l.wg.Wait()
}

func (l *link) carry(in *net.TCPConn) {
	hangUp := func() {
		_ = in.SetLinger(0)
		_ = in.Close()
	}
	if t, _ := l.state(); t.refused {
		hangUp()
		return
	}
	// While the way there is held this end is open, as if its packets were lost.
	out, err := net.DialTimeout("tcp", l.to, 2*time.Second)
	if err != nil {
		hangUp()
		return
	}
	p := &pair{in: in, out: out.(*net.TCPConn), gone: make(chan struct{})}
	l.mu.Lock()
	refused := l.closed || l.now.refused || len(l.pairs) >= maxPairs
	if !refused {
		l.pairs[p] = struct{}{}
	}
	l.mu.Unlock()
	if refused {
		p.abort()
		return
	}
	defer func() {
		l.mu.Lock()
		delete(l.pairs, p)
		l.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { l.pump(p, 0, p.in, p.out) })
	both.Go(func() { l.pump(p, 1, p.out, p.in) })
	both.Wait()
	p.once.Do(func() {
		close(p.gone)
		_ = p.in.Close()
		_ = p.out.Close()
	})
}

// piece is some bytes on their way, or the end of them.
type piece struct {
	data []byte
	due  time.Time
	end  bool
}

// maxWay is how many pieces may be on their way.
const maxWay = 16

// pump carries one direction. It takes nothing more while much is held up, so that memory
// is bounded and the sender notices as it would on a network.
func (l *link) pump(p *pair, direction int, from, to *net.TCPConn) {
	way := make(chan piece, maxWay)
	var delivery sync.WaitGroup
	delivery.Go(func() { l.deliver(p, direction, to, way) })
	defer delivery.Wait()
	defer close(way)
	for {
		buf := make([]byte, 4<<10)
		n, err := from.Read(buf)
		t, _ := l.state()
		select {
		case way <- piece{buf[:n], time.Now().Add(t.delay), err != nil}:
		case <-p.gone:
			return
		}
		if err != nil {
			return
		}
	}
}

// deliver is the far end of the way.
func (l *link) deliver(p *pair, direction int, to *net.TCPConn, way <-chan piece) {
	for b := range way {
		if !l.pass(p, direction, b.due) {
			return
		}
		n := len(b.data)
		if t, _ := l.state(); t.reset && n > 0 && l.left.Add(-int64(n)) < 0 {
			_, _ = to.Write(b.data[:n/2]) // half of it arrives
			p.abort()
			l.left.Store(t.after)
			return
		}
		if _, err := to.Write(b.data); err != nil {
			p.abort()
			return
		}
		if b.end {
			_ = to.CloseWrite()
			return
		}
	}
}

// pass waits until the piece is due, and for as long as nothing passes there.
func (l *link) pass(p *pair, direction int, due time.Time) bool {
	if d := time.Until(due); d > 0 {
		select {
		case <-time.After(d):
		case <-p.gone:
			return false
		}
	}
	for {
		t, changed := l.state()
		if !t.hold[direction] {
			return true
		}
		select {
		case <-changed:
		case <-p.gone:
			return false
		}
	}
}

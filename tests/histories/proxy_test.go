package histories

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy stands between one client and the coordinator. It cuts connections, and can
// hold back all answers while the coordinator loses its power.
type proxy struct {
	lis net.Listener
	wg  sync.WaitGroup

	mu     sync.Mutex
	target string
	free   chan struct{} // closed: connections may be made
	conns  map[net.Conn]bool
	closed bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{lis: lis, target: target, free: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(p.free)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.release("")
		_ = p.lis.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.lis.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.lis.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		free := p.free
		p.mu.Unlock()
		<-free
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *proxy) serve(c net.Conn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	s, err := net.Dial("tcp", target)
	if err != nil {
		_ = c.Close()
		return
	}
	p.mu.Lock()
	alive := target == p.target && !p.closed
	p.conns[c], p.conns[s] = alive, alive
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		delete(p.conns, s)
		p.mu.Unlock()
	}()
	end := sync.OnceFunc(func() { _, _ = c.Close(), s.Close() })
	if !alive {
		end()
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(s, c); end() })
	wg.Go(func() { _, _ = io.Copy(c, s); end() })
	wg.Wait()
}

// cut ends all connections, with whatever is under way in them.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// hold cuts, and lets nothing through until release: when it returns, no client learns
// anything any more.
func (p *proxy) hold() {
	p.mu.Lock()
	p.free, p.target = make(chan struct{}), ""
	p.mu.Unlock()
	p.cut()
}

// release lets connections through to another address; empty: to nobody.
func (p *proxy) release(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
	select {
	case <-p.free:
	default:
		close(p.free)
	}
}

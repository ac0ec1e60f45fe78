package disk

import (
	"net"
	"sync"
)

// gate is the address of the coordinator. It stays while coordinators come and go.
type gate struct {
	lis net.Listener
	wg  sync.WaitGroup

	mu   sync.Mutex
	open *outlet
}

func newGate() (*gate, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{lis: lis}
	g.wg.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			o := g.open
			g.mu.Unlock()
			if o == nil || !o.take(c) {
				_ = c.Close() // nobody is there
			}
		}
	})
	return g, nil
}

func (g *gate) addr() string { return g.lis.Addr().String() }

// outlet makes a listener that gets what comes to the gate from now on.
func (g *gate) outlet() *outlet {
	o := &outlet{gate: g, ready: make(chan net.Conn, 64), closed: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = o
	return o
}

func (g *gate) close() {
	_ = g.lis.Close()
	g.wg.Wait()
}

// outlet is where one coordinator listens.
type outlet struct {
	gate   *gate
	ready  chan net.Conn
	closed chan struct{}

	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

// take hands over a connection; false: nobody wants it.
func (o *outlet) take(c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dead {
		return false
	}
	select {
	case o.ready <- c:
		o.conns = append(o.conns, c)
		return true
	default:
		return false
	}
}

// cut ends what the coordinator says to anybody, at once.
func (o *outlet) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.dead {
		o.dead = true
		close(o.closed)
	}
	for _, c := range o.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (o *outlet) Accept() (net.Conn, error) {
	select {
	case c := <-o.ready:
		return c, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections stay.
func (o *outlet) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.dead {
		o.dead = true
		close(o.closed)
	}
	return nil
}

// Addr implements net.Listener.
func (o *outlet) Addr() net.Addr { return o.gate.lis.Addr() }

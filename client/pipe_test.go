package client

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// pipes is a listener whose connections live in memory and can fall silent,
// like a cable that was pulled.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	mu     sync.Mutex
	open   []*silent
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	ca, cb := &silent{Conn: a}, &silent{Conn: b}
	p.mu.Lock()
	p.open = append(p.open, ca, cb)
	p.mu.Unlock()
	select {
	case p.conns <- cb:
		return ca, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// silence swallows from now on what is written to the connections there are.
func (p *pipes) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.mute.Store(true)
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

type silent struct {
	net.Conn
	mute atomic.Bool
}

func (s *silent) Write(b []byte) (int, error) {
	if s.mute.Load() {
		return len(b), nil
	}
	return s.Conn.Write(b)
}

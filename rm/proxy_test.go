package rm_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between pgx and Postgres: it counts round trips, delays, and cuts.
type proxy struct {
	t      testing.TB
	target string
	lis    net.Listener
	delay  time.Duration // of each direction
	trips  atomic.Int64  // times that the client spoke after the server
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	// cut decides about what the client sends: forward it, and, if cut, end
	// the connection, after the server's answer where it was forwarded.
	cut func(b []byte) (forward, cut bool)
}

// through starts a proxy and gives the DSN that goes through it.
func through(tb testing.TB, dsn string, delay time.Duration) (*proxy, string) {
	tb.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	host, port := u.Hostname(), u.Port()
	if h := u.Query().Get("host"); host == "" {
		host = h
	}
	network, target := "tcp", net.JoinHostPort(host, port)
	p := &proxy{t: tb, target: target, delay: delay}
	if p.lis, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	p.wg.Go(func() {
		for {
			c, err := p.lis.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial(network, target)
			if err != nil {
				_ = c.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, c, s)
			p.mu.Unlock()
			p.serve(c, s)
		}
	})
	tb.Cleanup(p.stop)
	u.Host = p.lis.Addr().String()
	q := u.Query()
	q.Del("host")
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	return p, u.String()
}

func (p *proxy) stop() {
	_ = p.lis.Close()
	p.cutAll()
	p.wg.Wait()
}

func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// onClient sets what decides about the client's messages.
func (p *proxy) onClient(f func([]byte) (forward, cut bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = f
}

func (p *proxy) serve(client, server net.Conn) {
	var fromServer, doomed atomic.Bool
	fromServer.Store(true)
	end := func() { _ = client.Close(); _ = server.Close() }
	p.wg.Go(func() {
		defer end()
		p.pump(client, func(b []byte) bool {
			if fromServer.Swap(false) {
				p.trips.Add(1)
			}
			p.mu.Lock()
			cut := p.cut
			p.mu.Unlock()
			if cut != nil {
				forward, stop := cut(b)
				if stop && !forward {
					return false
				}
				doomed.Store(stop)
			}
			_, err := server.Write(b)
			return err == nil
		})
	})
	p.wg.Go(func() {
		defer end()
		p.pump(server, func(b []byte) bool {
			// Nobody waits for CopyInResponse: pgx sends its rows at once, so whether
			// this or they come first is chance, and no round trip.
			if alone := len(b) > 4 && b[0] == 'G' && len(b) == 1+int(binary.BigEndian.Uint32(b[1:])); !alone {
				fromServer.Store(true)
			}
			if doomed.Load() {
				return false
			}
			_, err := client.Write(b)
			return err == nil
		})
	})
}

type chunk struct {
	due  time.Time
	data []byte
}

// pump passes on what is read, later by the delay.
func (p *proxy) pump(from io.Reader, to func([]byte) bool) {
	if p.delay == 0 {
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			if n > 0 && !to(b[:n]) || err != nil {
				return
			}
		}
	}
	queue := make(chan chunk, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c := range queue {
			nap(time.Until(c.due))
			if !to(c.data) {
				break
			}
		}
		for range queue { // what nobody takes any more
		}
	}()
	for {
		b := make([]byte, 16<<10)
		n, err := from.Read(b)
		if n > 0 {
			queue <- chunk{time.Now().Add(p.delay), b[:n]}
		}
		if err != nil {
			close(queue)
			<-done
			return
		}
	}
}

// contains tells whether the client's message holds a text.
func contains(b []byte, text string) bool { return bytes.Contains(bytes.ToLower(b), []byte(text)) }

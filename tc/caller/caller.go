package caller

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/handfast/handfast/internal/address"
	"github.com/handfast/handfast/tc/core"
)

// MaxResult is the longest answer that is taken as a result, in bytes.
const MaxResult = 64 << 10

// maxText bounds core.Called.Text, in bytes.
const maxText = 1 << 10

// closing is why nothing is called any more.
const closing = "the coordinator is shutting down"

// Config of a Caller. The zero value is ready to use.
type Config struct {
	// Calls bounds the calls under way at the same time; 0: 4,096. The last quarter is
	// kept for hosts that have none under way.
	Calls int
	// CallsPerHost bounds those to one host and port; 0: 64. So many connections at
	// most are open to it for HTTP/1.1.
	CallsPerHost int
	// WaitingPerHost bounds the calls that wait until others to the same host and port
	// end; 0: 1,024.
	WaitingPerHost int
	// Timeout is how long a call may take whose action does not say; 0: 10 s.
	Timeout time.Duration
	// DialTimeout bounds how long it may take to resolve a name and connect, and
	// separately a TLS handshake; 0: 5 s. The timeout of the call bounds both as well.
	DialTimeout time.Duration
	// IdleTimeout is how long a connection is kept that nobody uses; 0: 1 minute.
	IdleTimeout time.Duration
	// MaxIdle bounds the connections that nobody uses, for HTTP and for gRPC each; 0: 1,024.
	MaxIdle int
	// TLS is for https:// and grpcs://; nil: the system's roots and no certificate of
	// our own. It is copied.
	TLS *tls.Config
	// Proxy chooses a proxy for an HTTP request; nil: none, whatever the environment says.
	// A proxy connects on its own; then Allow and LinkLocal are about the proxy's address.
	Proxy func(*http.Request) (*url.URL, error)
	// Allow tells whether a host may be connected to, by its name as it is in the
	// action and by the address that it was resolved to; nil: all. It may be called from
	// many goroutines at once. Rules makes one.
	Allow func(host string, ip netip.Addr) bool
	// LinkLocal lets calls go to link-local addresses and to those where clouds tell
	// machines their secrets. Allow has to allow them, too.
	LinkLocal bool
}

func (c Config) withDefaults() Config {
	orInt(&c.Calls, 4096)
	orInt(&c.CallsPerHost, 64)
	orInt(&c.WaitingPerHost, 1024)
	orInt(&c.MaxIdle, 1024)
	orDuration(&c.Timeout, 10*time.Second)
	orDuration(&c.DialTimeout, 5*time.Second)
	orDuration(&c.IdleTimeout, time.Minute)
	return c
}

func orInt(n *int, def int) {
	if *n <= 0 {
		*n = def
	}
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}

// Caller makes the calls of a coordinator. It is safe for concurrent use.
type Caller struct {
	cfg    Config
	answer func(core.Called)
	lines  lines
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	dial   *dialer
	http   *httpCalls
	grpc   *grpcCalls
}

// New makes a Caller. answer gets exactly one core.Called for each Call: from a goroutine
// of the Caller, or from within Call where nothing is called at all. It must not block.
func New(cfg Config, answer func(core.Called)) *Caller {
	cfg = cfg.withDefaults()
	c := &Caller{
		cfg: cfg, answer: answer,
		lines: lines{
			calls: cfg.Calls, perHost: cfg.CallsPerHost, perLine: cfg.WaitingPerHost,
			hosts: make(map[string]*host),
		},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.dial = newDialer(c.ctx, cfg)
	c.http = newHTTPCalls(cfg, c.dial)
	c.grpc = newGRPCCalls(cfg, c.dial)
	return c
}

// Call has an action called whose target is HTTP or GRPC. It never blocks. The answer
// comes within the timeout of the action, which begins now: a call may wait for its turn
// for half of it. The action and what it holds must not be changed afterwards.
func (c *Caller) Call(in core.Call) {
	if r, nothing := withoutCall(&in); nothing {
		c.tell(in, r)
		return
	}
	to, err := parseTarget(in.Action)
	if err != nil {
		c.tell(in, mistake("%v", err))
		return
	}
	timeout := c.cfg.Timeout
	if in.Action.Timeout > 0 {
		timeout = in.Action.Timeout
	}
	j := &job{call: in, to: to, timeout: timeout, deadline: time.Now().Add(timeout)}
	start, refused := c.lines.admit(j, func() *time.Timer {
		return time.AfterFunc(timeout/2, func() { c.expire(j) })
	})
	switch {
	case refused != "":
		c.tell(in, unsure("%s", refused))
	case start:
		go c.run(j)
	}
}

// run makes a call and then those that waited for it to end.
func (c *Caller) run(j *job) {
	defer c.lines.open.Done()
	for {
		c.tell(j.call, c.make(j))
		c.lines.open.Done()
		next := c.lines.end(j.host)
		if len(next) == 0 {
			return
		}
		for _, other := range next[1:] {
			go c.run(other)
		}
		j = next[0]
	}
}

// expire answers a call that has waited for too long.
func (c *Caller) expire(j *job) {
	there, toHost, all := c.lines.take(j)
	if !there {
		return
	}
	c.tell(j.call, unsure("not called: it waited for its turn for %s; %d calls to %s are under way, %d in all",
		j.timeout/2, toHost, j.host.name, all))
	c.lines.open.Done()
}

// make makes one call.
func (c *Caller) make(j *job) result {
	ctx, cancel := context.WithDeadline(c.ctx, j.deadline)
	defer cancel()
	var r result
	if j.call.Action.Dialect == core.DialectHandfast {
		r = c.attempt(ctx, j)
	} else {
		r = c.attemptDTM(ctx, j)
	}
	if r.interrupted {
		switch {
		case c.ctx.Err() != nil:
			r.text = closing
		case ctx.Err() != nil:
			r.text = fmt.Sprintf("%s: no complete answer within %s", j.to.Host, j.timeout)
		}
	}
	return r
}

// attempt calls in Handfast's own dialect.
func (c *Caller) attempt(ctx context.Context, j *job) result {
	a, err := expand(j)
	if err != nil {
		return mistake("%v", err)
	}
	if j.to.Kind == address.GRPC {
		return c.grpc.call(ctx, j, a)
	}
	return c.http.call(ctx, j, a)
}

// Close answers every call that is not answered as Unsure, those under way too, and
// closes all connections. It waits until that is done, or until ctx ends, whose error
// it then gives; the rest is done all the same. Calls that come later are answered as
// Unsure at once. Close may be called again, to wait again.
func (c *Caller) Close(ctx context.Context) error {
	waiting := c.lines.close()
	c.cancel()
	for _, j := range waiting {
		c.tell(j.call, unsure(closing))
		c.lines.open.Done()
	}
	done := make(chan struct{})
	go func() { // ends when the last call does, which c.cancel brings about
		defer close(done)
		c.lines.open.Wait()
		c.http.close()
		c.grpc.close()
		c.dial.wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// result is how a call ended.
type result struct {
	verdict   core.Verdict
	text      string
	body      []byte
	attention bool
	// interrupted: it may have ended only because its context did.
	interrupted bool
}

func unsure(format string, args ...any) result {
	return result{verdict: core.Unsure, text: fmt.Sprintf(format, args...)}
}

// mistake is what trying again will not mend.
func mistake(format string, args ...any) result {
	r := unsure(format, args...)
	r.attention = true
	return r
}

// tell answers a call.
func (c *Caller) tell(call core.Call, r result) {
	if len(r.body) == 0 {
		r.body = nil
	}
	c.answer(core.Called{
		XID: call.XID, Branch: call.Branch, Op: call.Op, Attempt: call.Attempt,
		Verdict: r.verdict, Text: cut(r.text), Result: r.body, NeedsAttention: r.attention,
	})
}

// cut makes of whatever somebody sent a text that can be kept and told.
func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText-len("...")] + "..."
	}
	s = strings.ToValidUTF8(s, "")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
}

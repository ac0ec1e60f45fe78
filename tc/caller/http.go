package caller

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/handfast/handfast/tc/core"
)

// maxHeader bounds the header of an answer, in bytes.
const maxHeader = 64 << 10

// maxDials is after how many dials a transport is replaced.
const maxDials = 1 << 14

// httpCalls makes the calls over HTTP.
//
// An http.Transport remembers every host that it began to connect to until a
// connection to it becomes idle, which may be never: idleConnWait holds whoever would
// have taken that one. Whoever submits chooses the hosts, so there is no end to them.
// Therefore a transport is replaced after many dials. Its idle connections are
// closed; those in use end with their calls.
type httpCalls struct {
	cfg      Config
	dial     *dialer
	maxDials int64

	mu      sync.Mutex
	current *transport
}

type transport struct {
	*http.Transport
	dials atomic.Int64
}

func newHTTPCalls(cfg Config, d *dialer) *httpCalls {
	return &httpCalls{cfg: cfg, dial: d, maxDials: maxDials, current: newTransport(cfg, d)}
}

func newTransport(cfg Config, d *dialer) *transport {
	t := &transport{}
	t.Transport = &http.Transport{
		Proxy: cfg.Proxy,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			t.dials.Add(1)
			return d.dial(ctx, network, address)
		},
		TLSClientConfig:        tlsConfig(cfg.TLS),
		TLSHandshakeTimeout:    cfg.DialTimeout,
		MaxIdleConns:           cfg.MaxIdle,
		MaxIdleConnsPerHost:    cfg.CallsPerHost,
		IdleConnTimeout:        cfg.IdleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // an answer is its bytes, and no bomb
		ForceAttemptHTTP2:      true,
		// All calls to a host share a connection: one that is dead must not fail them all.
		HTTP2: &http.HTTP2Config{SendPingTimeout: cfg.IdleTimeout / 4, PingTimeout: cfg.DialTimeout},
	}
	return t
}

// get gives the transport for the next call.
func (h *httpCalls) get() *transport {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.current; old.dials.Load() >= h.maxDials {
		h.current = newTransport(h.cfg, h.dial)
		old.CloseIdleConnections()
	}
	return h.current
}

func tlsConfig(c *tls.Config) *tls.Config {
	if c == nil {
		return &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return c.Clone()
}

// close closes the idle connections. Those of a transport that was replaced end with
// the Caller's context, as all do.
func (h *httpCalls) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current.CloseIdleConnections()
}

func (h *httpCalls) call(ctx context.Context, j *job, out outgoing) result {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, out.url, bytes.NewReader(out.payload))
	if err != nil {
		return mistake("%s: the url can't be called: %s", j.to.Host, strings.ReplaceAll(err.Error(), out.url, "it"))
	}
	fillHeader(req, j, out.payload)
	resp, err := h.get().RoundTrip(req)
	if err != nil {
		return failedHTTP(j, err)
	}
	// One byte more tells what is too long. A body that is longer costs its connection.
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxResult+1))
	_ = resp.Body.Close() // what counts was read
	return judge(j, resp.StatusCode, body, err)
}

func fillHeader(req *http.Request, j *job, payload []byte) {
	req.Header = make(http.Header, 10)
	req.Header.Set("User-Agent", "handfast")
	if len(payload) > 0 {
		contentType := "application/octet-stream"
		if json.Valid(payload) {
			contentType = "application/json"
		}
		req.Header.Set("Content-Type", contentType)
	}
	setGiven(req.Header, j.call.Action.Header)
	headers(j, req.Header.Set)
	markReplayable(req.Header)
}

// setGiven sets the headers of an action, in place of ours.
func setGiven(to http.Header, given []core.Header) {
	for i, h := range given {
		if first(given[:i], h.Name) {
			to.Set(h.Name, h.Value)
		} else {
			to.Add(h.Name, h.Value)
		}
	}
}

// markReplayable lets a call go out again on a new connection.
func markReplayable(h http.Header) {
	// Not sent, but http.Transport then sends again at once what went out on a kept
	// connection that turns out to be closed. Whoever is called knows the attempts of
	// an action by their key, so that is no news to it.
	if h["Idempotency-Key"] == nil {
		h["Idempotency-Key"] = []string{}
	}
}

// first tells whether none of the headers has the name.
func first(before []core.Header, name string) bool {
	for _, h := range before {
		if strings.EqualFold(h.Name, name) {
			return false
		}
	}
	return true
}

// failedHTTP is about a request that has no answer.
func failedHTTP(j *job, err error) result {
	r := unsure("%s: %v", j.to.Host, err)
	r.interrupted = true
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	r.attention = errors.Is(err, errNotAllowed) || errors.As(err, &cert) || errors.As(err, &unknown)
	return r
}

// judge says what an answer means. err is that of reading the body.
func judge(j *job, status int, body []byte, err error) result {
	switch {
	case status == http.StatusConflict || status == http.StatusTooEarly:
		// The word is spoken with the status; what is missing is only the reason.
		r := result{verdict: core.Failed, text: string(body)}
		if status == http.StatusTooEarly {
			r.verdict = core.NotYet
		}
		if cut(r.text) == "" {
			r.text = fmt.Sprintf("%s answered %s", j.to.Host, statusText(status))
		}
		return r
	case status < 200 || status > 299:
		return otherStatus(j, status, body)
	case len(body) > MaxResult:
		return tooLong(j)
	case err != nil:
		return brokenOff(j, status, err)
	}
	return result{verdict: core.Done, body: body}
}

// otherStatus is about an answer that says neither yes nor no.
func otherStatus(j *job, status int, body []byte) result {
	r := unsure("%s answered %s: %s", j.to.Host, statusText(status), body)
	if len(body) == 0 {
		r.text = strings.TrimSuffix(r.text, ": ")
	}
	r.attention = wrongStatus(status)
	return r
}

// brokenOff is about an answer that has no end.
func brokenOff(j *job, status int, err error) result {
	r := unsure("%s answered %s, and then failed: %v", j.to.Host, statusText(status), err)
	r.interrupted = true
	return r
}

func tooLong(j *job) result {
	return mistake("%s: the answer is longer than 64 KiB, so it can't be kept", j.to.Host)
}

func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

// wrongStatus tells whether an answer says that the request itself is wrong, so that the
// same request will have the same answer until a person changes something.
func wrongStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusLocked,
		http.StatusFailedDependency, http.StatusTooManyRequests:
		return false
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusSwitchingProtocols:
		return true
	}
	return status >= 300 && status < 500
}

package caller

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/handfast/handfast/tc/core"
)

// errRedirects: a call was sent from one place to the next too often.
var errRedirects = errors.New("stopped after 10 redirects")

// callDTM calls a URL as DTM does, over HTTP or JSON-RPC.
func (h *httpCalls) callDTM(ctx context.Context, j *job, id dtmIdentity) result {
	rpc := j.call.Action.Dialect == core.DialectDTMRPC
	req, err := newDTMRequest(ctx, &j.call, id, rpc)
	if err != nil {
		return mistake("%s: %v", j.to.Host, err)
	}
	client := http.Client{Transport: h.get(), CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errRedirects
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		if at := (*url.Error)(nil); errors.As(err, &at) && at.URL == req.URL.String() {
			err = at.Err // else a redirect led there, which is worth telling
		}
		r := failedHTTP(j, err)
		r.attention = r.attention || errors.Is(err, errRedirects)
		return r
	}
	defer func() { _ = resp.Body.Close() }() // what counts was read
	if j.call.Mode == core.ModeWorkflow && resp.StatusCode == http.StatusOK {
		_, _ = io.CopyN(io.Discard, resp.Body, MaxResult) // so that the connection can be kept
		return result{verdict: core.Done}
	}
	var whole bytes.Buffer
	var body io.Reader = resp.Body
	if rpc {
		body = io.TeeReader(body, &whole) // as much as scan reads
	}
	r := judgeDTM(j, resp.StatusCode, scan(body))
	if rpc && r.verdict == core.Done {
		return judgeRPC(j, whole.Bytes())
	}
	return r
}

func newDTMRequest(ctx context.Context, c *core.Call, id dtmIdentity, rpc bool) (*http.Request, error) {
	a := c.Action
	method, payload := http.MethodGet, a.Payload
	if rpc || len(payload) > 0 || c.Mode == core.ModeXA || c.Mode == core.ModeWorkflow {
		method = http.MethodPost
	}
	u, err := url.Parse(a.Address)
	if err != nil {
		return nil, fmt.Errorf("the url can't be called: %w", err)
	}
	if rpc {
		if payload, err = rpcRequest(u, payload, id); err != nil {
			return nil, err
		}
	} else {
		// What is there stays as it is, even where it has the same names.
		query := url.Values{}
		id.each(query.Set)
		if u.RawQuery != "" {
			u.RawQuery += "&"
		}
		u.RawQuery += query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("the url can't be called: %w", err)
	}
	req.Header.Set("User-Agent", "handfast")
	req.Header.Set("Content-Type", "application/json")
	setGiven(req.Header, a.Header)
	markReplayable(req.Header)
	return req, nil
}

// rpcRequest makes the body of a call over JSON-RPC: the payload with the identity in it.
func rpcRequest(u *url.URL, payload []byte, id dtmIdentity) ([]byte, error) {
	params := map[string]json.RawMessage{}
	if len(payload) > 0 {
		if err := json.Unmarshal(payload, &params); err != nil || params == nil {
			return nil, errors.New("the payload can't be sent: JSON-RPC takes a JSON object as its parameters")
		}
	}
	var err error
	id.each(func(name, value string) {
		text, wrong := json.Marshal(value)
		params[name] = text
		err = errors.Join(err, wrong)
	})
	if err != nil {
		return nil, fmt.Errorf("the payload can't be sent: %w", err)
	}
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": rand.Text(), "method": u.Query().Get("method"), "params": params,
	})
	if err != nil {
		return nil, fmt.Errorf("the payload can't be sent: %w", err)
	}
	return body, nil
}

// scanned is what is known of a body that nobody keeps.
type scanned struct {
	head             []byte // the beginning; more than a text may hold where there is more
	ongoing, failure bool   // it holds the word
	long             bool   // it was left at maxScan
	err              error
}

// scan reads a body and looks for DTM's words.
func scan(body io.Reader) (s scanned) {
	const overlap = len(dtmFailure) - 1 // both words are as long
	buf := make([]byte, overlap+4<<10)
	kept, total := 0, 0 // buf[:kept] is the end of what was read before
	for {
		n, err := body.Read(buf[kept:])
		total += n
		s.head = append(s.head, buf[kept:kept+min(n, maxText+1-len(s.head))]...)
		window := buf[:kept+n]
		s.ongoing = s.ongoing || bytes.Contains(window, []byte(dtmOngoing))
		s.failure = s.failure || bytes.Contains(window, []byte(dtmFailure))
		kept = copy(buf, window[max(0, len(window)-overlap):])
		switch {
		case total > maxScan:
			s.long = true
			return s
		case errors.Is(err, io.EOF):
			return s
		case err != nil:
			s.err = err
			return s
		}
	}
}

// judgeDTM says what an answer means to DTM.
func judgeDTM(j *job, status int, s scanned) result {
	// Such a word is spoken with the status; a body without its end can still change no
	// to not yet, but not to anything else.
	word := status == http.StatusConflict || status == http.StatusTooEarly
	switch {
	case s.err != nil && !word:
		return brokenOff(j, status, s.err)
	case s.long && !word:
		return tooLongDTM(j)
	case s.ongoing || status == http.StatusTooEarly:
		return notYet(string(s.head), j.to.Host+" answered "+statusText(status))
	case s.failure || status == http.StatusConflict:
		return result{verdict: core.Failed, text: refusal(j.call.Action.Address, string(s.head))}
	case status == http.StatusOK:
		return result{verdict: core.Done}
	default:
		r := otherStatus(j, status, s.head)
		r.attention = false // DTM tries again as after any other error
		return r
	}
}

// The codes of JSON-RPC that mean what 409 and 425 mean.
const (
	rpcFailure = -32901
	rpcOngoing = -32902
)

// judgeRPC says what an answer of JSON-RPC means that HTTP has nothing against.
func judgeRPC(j *job, body []byte) result {
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(body, &answer); err != nil || answer == nil {
		return unsure("%s: the answer is no JSON object, as JSON-RPC wants it: %s", j.to.Host, head(body))
	}
	switch wrong := answer["error"]; string(wrong) {
	case "", "null":
		return result{verdict: core.Done}
	default:
		var e struct{ Code float64 }
		if err := json.Unmarshal(wrong, &e); err != nil {
			e.Code = 0
		}
		switch e.Code {
		case rpcFailure:
			return result{verdict: core.Failed, text: refusal(j.call.Action.Address, string(head(body)))}
		case rpcOngoing:
			return result{verdict: core.NotYet, text: string(head(body))}
		}
		return unsure("%s answered an error: %s", j.to.Host, head(wrong))
	}
}

func head(b []byte) []byte { return b[:min(len(b), maxText+1)] }

package histories

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// gidRequest is a request about a gid, in DTM's JSON.
type gidRequest struct {
	Gid           string              `json:"gid"`
	TransType     gidMode             `json:"trans_type"`
	Steps         []map[string]string `json:"steps,omitempty"`
	Payloads      []string            `json:"payloads,omitempty"`
	QueryPrepared string              `json:"query_prepared,omitempty"`
	BranchID      string              `json:"branch_id,omitempty"`
	Confirm       string              `json:"confirm,omitempty"`
	Cancel        string              `json:"cancel,omitempty"`
	Timeout       int64               `json:"timeout_to_fail,omitempty"`
	RetryInterval int64               `json:"retry_interval,omitempty"`
	Wait          bool                `json:"wait_result,omitempty"`
}

// gidReply is an answer: a status of HTTP, and a text where it is no success.
type gidReply struct {
	status int
	text   string
}

// gidShown is what a query shows; without a status, nothing is known.
type gidShown struct {
	status   string
	branches map[string]bool
}

// gidDoor is what a client of DTM's API can call.
type gidDoor interface {
	newGid(ctx context.Context) (string, error)
	post(ctx context.Context, endpoint string, r gidRequest) (gidReply, error)
	query(ctx context.Context, gid string) (gidShown, error)
}

// overHTTP speaks it.
type overHTTP struct {
	url string
	c   *http.Client
}

func (o overHTTP) do(ctx context.Context, method, path string, body []byte) (gidReply, error) {
	req, err := http.NewRequestWithContext(ctx, method, o.url+"/api/dtmsvr/"+path, bytes.NewReader(body))
	if err != nil {
		return gidReply{}, err
	}
	resp, err := o.c.Do(req)
	if err != nil {
		return gidReply{}, errSilence
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return gidReply{}, errSilence
	}
	return gidReply{resp.StatusCode, string(b)}, nil
}

// read asks for an object.
func (o overHTTP) read(ctx context.Context, path string, into any) error {
	r, err := o.do(ctx, http.MethodGet, path, nil)
	switch {
	case err != nil:
		return err
	case r.status == http.StatusServiceUnavailable || r.status == http.StatusInternalServerError:
		return errSilence
	case r.status != http.StatusOK:
		return fmt.Errorf("%s: %d %s", path, r.status, r.text)
	}
	return json.Unmarshal([]byte(r.text), into)
}

func (o overHTTP) newGid(ctx context.Context) (string, error) {
	var a struct{ Gid string }
	err := o.read(ctx, "newGid", &a)
	return a.Gid, err
}

func (o overHTTP) post(ctx context.Context, endpoint string, r gidRequest) (gidReply, error) {
	b, err := json.Marshal(r)
	if endpoint == "registerBranch" { // it takes texts alone
		b, err = json.Marshal(map[string]string{
			"gid": r.Gid, "trans_type": string(r.TransType), "branch_id": r.BranchID, "confirm": r.Confirm, "cancel": r.Cancel, "data": "{}",
		})
	}
	if err != nil {
		return gidReply{}, err
	}
	return o.do(ctx, http.MethodPost, endpoint, b)
}

func (o overHTTP) query(ctx context.Context, gid string) (s gidShown, err error) {
	var a struct {
		Transaction *struct{ Status string }
		Branches    []struct {
			BranchID string `json:"branch_id"`
		}
	}
	if err = o.read(ctx, "query?gid="+url.QueryEscape(gid), &a); err != nil || a.Transaction == nil {
		return s, err
	}
	s = gidShown{status: a.Transaction.Status, branches: map[string]bool{}}
	for _, b := range a.Branches {
		s.branches[b.BranchID] = true
	}
	return s, nil
}

// gidCaller is one client of one gid, whose calls are all noted.
type gidCaller struct {
	h   *gidHistory
	who int
	d   gidDoor
}

var seenStatus = regexp.MustCompile(`current status '(\w+)', cannot (\w+)`)

// refusal reads what an answer that is no success tells. It is errSilence where that is
// nothing, and another error where nobody should be told that.
func (c gidCaller) refusal(endpoint string, r gidReply) (do gidAction, out gidOutput, err error) {
	seen := seenStatus.FindStringSubmatch(r.text)
	switch {
	case r.status == http.StatusServiceUnavailable:
		return 0, out, errSilence
	case r.status == http.StatusInternalServerError && strings.Contains(r.text, "no TransGlobal with gid"):
		return toldNobody, out, nil
	case r.status == http.StatusInternalServerError && strings.Contains(r.text, "is registered already"):
		return toldBranch, out, nil
	case r.status == http.StatusInternalServerError && c.h.crashes:
		return 0, out, errSilence
	case r.status == http.StatusTooEarly && endpoint == "submit":
		return toldOngoing, out, nil
	case r.status != http.StatusConflict:
	case strings.Contains(r.text, "no trans with gid"):
		return toldLate, out, nil
	case strings.Contains(r.text, "is used already, with other content"):
		return toldConflict, out, nil
	case len(seen) == 0 && endpoint == "submit": // it waited, and was told the reason
		return toldRolled, out, nil
	case len(seen) == 0:
	case endpoint == "prepare" || seen[1] == "succeed":
		return toldStatus, gidOutput{status: seen[1]}, nil
	case seen[1] == "aborting" || seen[1] == "failed":
		return toldRolled, out, nil // it names one of them where it has not looked which
	case seen[1] == "submitted":
		return toldCommits, out, nil
	}
	return 0, out, fmt.Errorf("gid %s: %s is answered %d %s", c.h.gid, endpoint, r.status, r.text)
}

// done notes a call: what it may have done, and what it was told. It tells whether there
// was an answer.
func (c gidCaller) done(since int64, endpoint string, do, success gidInput, r gidReply, err error) (bool, error) {
	told, out := success, gidOutput{}
	if err == nil && r.status != http.StatusOK {
		told.do, out, err = c.refusal(endpoint, r)
	}
	if err != nil && !errors.Is(err, errSilence) {
		return false, err
	}
	now := clock()
	if until := now; do.do != 0 {
		if err != nil {
			until = endOfTime
		}
		c.h.note(c.who, since, until, do, gidOutput{})
		if do.do == gidSubmit && c.h.mode != modeSaga { // it begins what was not prepared, and others may see it in between
			c.h.note(c.who, since, until, gidInput{do: gidPrepare}, gidOutput{})
		}
	}
	if err == nil {
		c.h.note(c.who, since, now, told, out)
	}
	return err == nil, nil
}

func (c gidCaller) call(ctx context.Context, endpoint string, r gidRequest, do, success gidInput) (bool, error) {
	since := clock()
	a, err := c.d.post(ctx, endpoint, r)
	return c.done(since, endpoint, do, success, a, err)
}

func (c gidCaller) prepare(ctx context.Context) (bool, error) {
	return c.call(ctx, "prepare", c.h.request(), gidInput{do: gidPrepare}, gidInput{do: toldPrepared})
}

func (c gidCaller) register(ctx context.Context, b int) (bool, error) {
	r := c.h.request()
	r.BranchID, r.Confirm, r.Cancel = stepID(b), c.h.url(opConfirm, b), c.h.url(opCancel, b)
	return c.call(ctx, "registerBranch", r, gidInput{do: gidRegister, branch: b}, gidInput{do: toldBranch, branch: b})
}

func (c gidCaller) submit(ctx context.Context, wait bool) (bool, error) {
	r, success := c.h.request(), gidInput{do: toldSubmitted}
	if r.Wait = wait; wait {
		success.do = toldOver
	}
	return c.call(ctx, "submit", r, gidInput{do: gidSubmit}, success)
}

// other submits under the same gid what is something else. It was submitted before.
func (c gidCaller) other(ctx context.Context) (bool, error) {
	r := c.h.request()
	r.Payloads[0] = `{"other":1}`
	a, err := c.d.post(ctx, "submit", r)
	if err == nil && a.status == http.StatusOK {
		return false, fmt.Errorf("gid %s: other content is taken", c.h.gid)
	}
	return c.done(clock(), "submit", gidInput{}, gidInput{}, a, err)
}

func (c gidCaller) abort(ctx context.Context) (bool, error) {
	return c.call(ctx, "abort", c.h.request(), gidInput{do: gidAbort}, gidInput{do: toldAborted})
}

func (c gidCaller) query(ctx context.Context) (bool, error) {
	since := clock()
	s, err := c.d.query(ctx, c.h.gid)
	if err != nil {
		return c.done(since, "query", gidInput{}, gidInput{}, gidReply{}, err)
	}
	out := gidOutput{status: s.status}
	// Of what is over only the status is promised.
	out.listed = c.h.mode == modeTCC && (s.status == "prepared" || s.status == "submitted" || s.status == "aborting")
	for b := range out.branches {
		out.branches[b] = out.listed && s.branches[stepID(b)]
	}
	c.h.note(c.who, since, clock(), gidInput{do: toldStatus}, out)
	return true, nil
}

func stepID(b int) string { return "0" + strconv.Itoa(b+1) }

// timeoutOf is a timeout in DTM's seconds.
func timeoutOf(d time.Duration) int64 { return int64(d / time.Second) }

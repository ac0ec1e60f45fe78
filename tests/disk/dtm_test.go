package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/handfast/handfast/fence"
)

// gid is what the client of DTM calls its transaction.
const gid = "disk-1"

// listen serves the participants of DTM.
func (s *service) listen() error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.own = "http://" + lis.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("/do/{name}", func(w http.ResponseWriter, r *http.Request) { s.dtmAct(w, r, false) })
	mux.HandleFunc("/refuse/{name}", func(w http.ResponseWriter, r *http.Request) { s.dtmAct(w, r, true) })
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = s.http.Serve(lis) }() // ends with close
	return nil
}

// dtmAct is a participant behind what does the work of DTM's barrier.
func (s *service) dtmAct(w http.ResponseWriter, r *http.Request, refuse bool) {
	q := r.URL.Query()
	a := fence.Forward
	if q.Get("op") == "compensate" {
		a = fence.Rollback
		s.outcome(q.Get("gid"), rolledBack, "compensation of "+r.PathValue("name"))
	}
	if err := s.shop.actAs(key{q.Get("gid"), q.Get("branch_id")}, a, r.PathValue("name"), refuse); err != nil {
		http.Error(w, err.Error()+" FAILURE", fence.HTTPStatus(err))
	}
}

// dtmAsk asks DTM's API until it answers.
func (s *service) dtmAsk(ctx context.Context, method, path string, body any) (status int, text []byte, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		r, err := http.NewRequestWithContext(ctx, method, s.dtm+path, bytes.NewReader(b))
		if err != nil {
			return 0, nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		if resp, err := c.Do(r); err == nil {
			text, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil && resp.StatusCode != http.StatusServiceUnavailable {
				return resp.StatusCode, text, nil
			}
		}
		time.Sleep(10 * time.Millisecond) // there is no signal for "it can be asked again"
	}
	return 0, nil, ctx.Err()
}

// dtmQuery looks the gid up; empty: there is no such transaction.
func (s *service) dtmQuery(ctx context.Context) (string, error) {
	code, text, err := s.dtmAsk(ctx, http.MethodGet, "query?gid="+gid, nil)
	if err != nil {
		return "", err
	}
	var r struct{ Transaction *struct{ Status string } }
	if err := json.Unmarshal(text, &r); err != nil || code != http.StatusOK {
		return "", fmt.Errorf("query: %d %s: %w", code, text, err)
	}
	if r.Transaction == nil {
		return "", nil
	}
	switch st := r.Transaction.Status; st {
	case "succeed":
		s.outcome(gid, committed, "query")
		return committed, nil
	case "failed", "aborting":
		s.outcome(gid, rolledBack, "query")
		return rolledBack, nil
	default:
		return unknown, nil
	}
}

// dtmSaga submits a saga over DTM's API, as often as it takes to hear that it was taken,
// and looks its gid up until it has ended.
func (s *service) dtmSaga(ctx context.Context) string {
	second := s.own + "/" + path("s2", s.refuse)
	steps := []map[string]string{
		{"action": s.own + "/do/s1", "compensate": s.own + "/do/s1"},
		{"action": second, "compensate": second},
	}
	code, _, err := s.dtmAsk(ctx, http.MethodPost, "submit", map[string]any{
		"gid": gid, "trans_type": "saga", "steps": steps, "payloads": []string{"{}", "{}"}, "retry_interval": 1, "request_timeout": 1,
	})
	if err != nil || code != http.StatusOK && code != http.StatusConflict {
		return unknown
	}
	if code == http.StatusOK {
		s.submitted(gid)
	}
	for {
		st, err := s.dtmQuery(ctx)
		switch {
		case err != nil:
			return unknown
		case st == "":
			s.alarm("query knows nothing of a gid that was taken")
			return unknown
		case st != unknown:
			return st
		}
		time.Sleep(5 * time.Millisecond) // there is no signal for it
	}
}

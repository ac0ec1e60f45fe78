package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tests/containers/api"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

type service struct {
	db   *rm.Pool
	tm   *tm.Manager
	http *http.Client
	held chan string
	free chan struct{}
}

func (s *service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /order", s.order)
	mux.HandleFunc("POST /change", s.change)
	mux.HandleFunc("GET /held", s.waitHeld)
	mux.HandleFunc("POST /release", s.release)
	return mux
}

// order runs the calls in a global transaction and answers with how it ended.
func (s *service) order(w http.ResponseWriter, r *http.Request) {
	var o api.Order
	if !read(w, r, &o) {
		return
	}
	var ended api.Ended
	err := s.tm.Do(r.Context(), func(ctx context.Context) error {
		id, _ := xid.FromContext(ctx)
		ended.XID = id.String()
		if err := s.apply(ctx, o.Own); err != nil {
			return err
		}
		for _, call := range o.Calls {
			if err := s.call(ctx, call); err != nil {
				return fmt.Errorf("%s: %w", call.URL, err)
			}
		}
		if o.Hold {
			s.held <- ended.XID
			select {
			case <-s.free:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if o.Fail {
			return errors.New("the order was told to fail")
		}
		return nil
	}, tm.WithName(o.Name))
	switch {
	case err == nil:
		ended.Outcome = api.Committed
	case errors.Is(err, tm.ErrRolledBack):
		ended.Outcome, ended.Error = api.RolledBack, err.Error()
	default:
		ended.Outcome, ended.Error = "?", err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(ended)
}

// change takes part in the transaction that the request carries.
func (s *service) change(w http.ResponseWriter, r *http.Request) {
	var c api.Change
	if !read(w, r, &c) {
		return
	}
	if _, ok := xid.FromContext(r.Context()); !ok {
		http.Error(w, "the request carries no XID", http.StatusBadRequest)
		return
	}
	if err := s.apply(r.Context(), c); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// apply changes a counter in a local transaction, which is a branch of the
// global one in ctx.
func (s *service) apply(ctx context.Context, c api.Change) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	tag, err := tx.Exec(ctx, "update counter set n = n + $2 where id = $1", c.ID, c.Delta)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("no counter %q", c.ID)
	}
	if c.Refuse {
		return errors.New("the service was told to refuse")
	}
	return tx.Commit(ctx)
}

func (s *service) call(ctx context.Context, c api.Call) error {
	body, err := json.Marshal(c.Change)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/change", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusNoContent {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

func (s *service) waitHeld(w http.ResponseWriter, r *http.Request) {
	select {
	case id := <-s.held:
		_, _ = io.WriteString(w, id)
	case <-r.Context().Done():
	}
}

func (s *service) release(w http.ResponseWriter, r *http.Request) {
	select {
	case s.free <- struct{}{}:
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

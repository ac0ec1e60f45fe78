package dtm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// flow is what a workflow has in custom_data: the function, and what it is called with.
type flow struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

func readFlow(custom string) (f flow, err error) {
	if err := json.Unmarshal([]byte(custom), &f); err != nil {
		return f, wrong("custom_data", "is not what a workflow has there: %v", err)
	}
	if f.Name == "" || len(f.Name) > maxGid || strings.ContainsFunc(f.Name, func(r rune) bool { return r < ' ' }) {
		return f, wrong("custom_data.name", "%.150q; want the name of the workflow, at most %d bytes", f.Name, maxGid)
	}
	return f, nil
}

// goesOn tells whether a request may go on with a workflow that was begun before, or be
// given its result. Another function, or the same of something else, would take its steps
// for its own. Who executes it may be another process, with another URL and options, or
// one that speaks the other protocol.
func (g *global) goesOn(r *request) error {
	asked, err := readFlow(r.CustomData)
	if err != nil {
		return err
	}
	begun, err := readFlow(g.note.Custom)
	if err != nil {
		return err
	}
	if asked.Name != begun.Name || !bytes.Equal(asked.Data, begun.Data) {
		return refuse(failure, "gid %s is used already, with other content: that of a workflow %q. FAILURE", r.Gid, begun.Name)
	}
	return nil
}

// prepareWorkflow begins a workflow, or gives what is known of it.
func (s *service) prepareWorkflow(ctx context.Context, r *request) (g global, err error) {
	if err := r.check(); err != nil {
		return g, err
	}
	if r.Type != workflow {
		return g, wrong("trans_type", "%.40q; want workflow", string(r.Type))
	}
	g, began, err := s.start(ctx, r, func(id xid.ID) ([]core.Register, error) {
		b, err := newPlanner(id, r.Protocol, &r.Options).callBack(r)
		return []core.Register{b}, err
	}, time.Time{})
	if err != nil || began {
		return g, err
	}
	if err := g.joins(r); err != nil {
		return g, s.told(ctx, &g, err)
	}
	return s.get(ctx, g.XID) // durable, before anybody acts on it
}

// submitWorkflow takes the result of a workflow, which its client decides.
func (s *service) submitWorkflow(ctx context.Context, r *request) error {
	if err := checkGid(r.Gid); err != nil {
		return err
	}
	v := core.CastVote{Fresh: true, Vote: core.VoteYes, Result: []byte(r.Extra["result"])}
	switch st := r.Extra["status"]; st {
	case string(succeed):
	case string(failed):
		v.Vote, v.Reason = core.VoteNo, cut(r.Extra["rollback_reason"])
	default:
		return wrong("req_extra.status", "%.40q; want succeed or failed", st)
	}
	gone := refuse(other, "storage: NotFound: no workflow with gid %s and status prepared", r.Gid)
	g, found, err := s.find(ctx, r.Gid)
	switch {
	case err != nil:
		return err
	case !found:
		return gone
	case g.note.Type != workflow || g.status() != prepared:
		return s.told(ctx, &g, gone)
	}
	_, err = s.vote(ctx, g.XID, v)
	var e *core.Error
	if errors.As(err, &e) && (e.Kind == core.ErrWrongState || e.Kind == core.ErrUnknownBranch) {
		return gone
	}
	return err
}

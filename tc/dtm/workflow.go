package dtm

import (
	"context"
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

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
	switch {
	case err != nil || began:
		return g, err
	case g.note.Type != workflow:
		return g, s.told(ctx, &g, refuse(failure, "gid %s is that of a %s, not of a workflow. FAILURE", r.Gid, g.note.Type))
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

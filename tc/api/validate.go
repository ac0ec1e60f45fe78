package api

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/xid"
)

// Limits of what a request may hold; the wire contract names them.
const (
	maxName           = 256
	maxText           = 1024
	maxTimeout        = 12 * time.Hour
	defaultWait       = 5 * time.Second
	maxWait           = 5 * time.Minute
	maxWaited         = 10 * time.Minute // that counts for the place in line
	maxFrames         = 1024             // in one message of a client
	maxAttached       = 1024             // resources in one Attach
	maxWitnesses      = 64               // of one resource
	maxListPage       = 1000
	defaultListPage   = 50
	maxResourceDetach = 1024
)

func parseXID(field, s string) (xid.ID, error) {
	if s == "" {
		return xid.ID{}, invalid(field, "is empty")
	}
	id, err := xid.Parse(s)
	if err != nil {
		return xid.ID{}, invalid(field, "%v", err)
	}
	return id, nil
}

func parseBranch(field, s string) (xid.BranchID, error) {
	if s == "" {
		return xid.BranchID{}, invalid(field, "is empty")
	}
	id, err := xid.ParseBranchID(s)
	if err != nil {
		return xid.BranchID{}, invalid(field, "%v", err)
	}
	return id, nil
}

func parseResource(field, s string) (xid.ResourceID, error) {
	if s == "" {
		return xid.ResourceID{}, invalid(field, "is empty")
	}
	id, err := xid.ParseResourceID(s)
	if err != nil {
		return xid.ResourceID{}, invalid(field, "%v", err)
	}
	return id, nil
}

// checkName checks a text that is shown on one line.
func checkName(field, s string) error {
	if len(s) > maxName {
		return invalid(field, "%d bytes long, at most %d", len(s), maxName)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return invalid(field, "holds a control character at byte %d", i)
	}
	return nil
}

// cut shortens a text to what is kept, without breaking a character.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// duration reads a span of time; def where there is none.
func duration(field string, d *durationpb.Duration, def, least, most time.Duration) (time.Duration, error) {
	if d == nil {
		return def, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, invalid(field, "is not a valid duration")
	}
	// AsDuration saturates, so a huge one is still too long.
	v := d.AsDuration()
	switch {
	case v < 0:
		return 0, invalid(field, "%s is negative", v)
	case v < least:
		return 0, invalid(field, "%s is too short, at least %s", v, least)
	case v > most:
		return 0, invalid(field, "%s is too long, at most %s", v, most)
	}
	return v, nil
}

func (a *API) begin(ref core.Ref, r *pb.BeginRequest) (core.Input, error) {
	if a.hub.isDraining() {
		return nil, draining()
	}
	if err := checkName("name", r.GetName()); err != nil {
		return nil, err
	}
	timeout, err := duration("timeout", r.GetTimeout(), a.cfg.DefaultTimeout, time.Millisecond, maxTimeout)
	if err != nil {
		return nil, err
	}
	var parent xid.ID
	if r.GetParentXid() != "" {
		if parent, err = parseXID("parent_xid", r.GetParentXid()); err != nil {
			return nil, err
		}
	}
	id, now := a.eng.NewXID()
	return core.Begin{Ref: ref, XID: id, Name: r.GetName(), Parent: parent, Deadline: now.Add(timeout)}, nil
}

func register(ref core.Ref, r *pb.RegisterBranchRequest) (core.Input, error) {
	id, err := parseXID("xid", r.GetXid())
	if err != nil {
		return nil, err
	}
	branch, err := parseBranch("branch_id", r.GetBranchId())
	if err != nil {
		return nil, err
	}
	resource, err := parseResource("resource_id", r.GetResourceId())
	if err != nil {
		return nil, err
	}
	if r.GetMode() < 0 || r.GetMode() > pb.Mode_MODE_XA || !core.Mode(r.GetMode()).Known() {
		return nil, invalid("mode", "%s, want MODE_AT or MODE_XA", r.GetMode())
	}
	return core.Register{Ref: ref, XID: id, Branch: branch, Resource: resource, Mode: core.Mode(r.GetMode())}, nil
}

func vote(ref core.Ref, r *pb.VoteRequest) (core.Input, error) {
	id, err := parseXID("xid", r.GetXid())
	if err != nil {
		return nil, err
	}
	branch, err := parseBranch("branch_id", r.GetBranchId())
	if err != nil {
		return nil, err
	}
	switch r.GetVote() {
	case pb.Vote_VOTE_YES, pb.Vote_VOTE_NO, pb.Vote_VOTE_WITHDRAWN:
	case pb.Vote_VOTE_UNSPECIFIED, pb.Vote_VOTE_OPEN:
		return nil, invalid("vote", "%s, want VOTE_YES, VOTE_NO or VOTE_WITHDRAWN", r.GetVote())
	default:
		return nil, invalid("vote", "%s, want VOTE_YES, VOTE_NO or VOTE_WITHDRAWN", r.GetVote())
	}
	return core.CastVote{Ref: ref, XID: id, Branch: branch, Vote: core.Vote(r.GetVote()), Reason: cut(r.GetReason())}, nil
}

func commit(ref core.Ref, r *pb.CommitRequest) (core.Input, error) {
	id, err := parseXID("xid", r.GetXid())
	return core.Commit{Ref: ref, XID: id, WaitSettled: r.GetWaitSettled()}, err
}

func rollback(ref core.Ref, r *pb.RollbackRequest) (core.Input, error) {
	id, err := parseXID("xid", r.GetXid())
	return core.Rollback{Ref: ref, XID: id, Cause: cut(r.GetCause()), WaitSettled: r.GetWaitSettled()}, err
}

func get(ref core.Ref, r *pb.GetRequest) (core.Input, error) {
	id, err := parseXID("xid", r.GetXid())
	return core.Get{Ref: ref, XID: id}, err
}

func (a *API) waitFor(ref core.Ref, r *pb.WaitForRequest) (core.Input, error) {
	id, err := parseXID("xid", r.GetXid())
	if err != nil {
		return nil, err
	}
	var resource xid.ResourceID
	if r.GetResourceId() != "" {
		if resource, err = parseResource("resource_id", r.GetResourceId()); err != nil {
			return nil, err
		}
	}
	var waiter xid.ID
	if r.GetWaiterXid() != "" {
		if waiter, err = parseXID("waiter_xid", r.GetWaiterXid()); err != nil {
			return nil, err
		}
		if waiter == id {
			return nil, invalid("waiter_xid", "is the transaction that is waited for")
		}
	}
	waited, err := duration("waited", r.GetWaited(), 0, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	timeout, err := duration("timeout", r.GetTimeout(), defaultWait, 0, maxWait)
	if err != nil {
		return nil, err
	}
	now := a.eng.Now()
	return core.Wait{
		Ref: ref, XID: id, Resource: resource, Row: cut(r.GetRow()), Waiter: waiter,
		Since: now.Add(-min(waited, maxWaited)), Until: now.Add(timeout),
	}, nil
}

func parseWitness(field string, w *pb.Witness) (engine.Witness, error) {
	st, err := xid.ParseStoreID(w.GetStoreId())
	if err != nil {
		return engine.Witness{}, invalid(field+".store_id", "%v", err)
	}
	return engine.Witness{Store: st, Incarnation: w.GetIncarnation(), Position: w.GetPosition()}, nil
}

package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

const (
	maxExamining       = 16 // at a time, of all operators
	defaultExamineRows = 100
	maxExamineRows     = 1000
	maxChoiceBytes     = 1 << 20
	maxDiffBytes       = 3 << 20
)

// examiners are questions of operators that an RM has to answer. Nothing of
// them is known to the engine: an answer that is lost is asked for again.
type examiners struct {
	room chan struct{} // bounds those at work

	mu      sync.Mutex
	last    uint64 // id; never used again, also not after a restart
	waiting map[uint64]chan *pb.ExamineResult
}

func newExaminers() *examiners {
	return &examiners{
		room: make(chan struct{}, maxExamining), waiting: make(map[uint64]chan *pb.ExamineResult),
		last: uint64(time.Now().UnixNano()),
	}
}

func (e *examiners) open() (uint64, chan *pb.ExamineResult) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	ch := make(chan *pb.ExamineResult, 1)
	e.waiting[e.last] = ch
	return e.last, ch
}

func (e *examiners) close(id uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.waiting, id)
}

// answered hands an answer to whoever waits for it, if anybody does.
func (e *examiners) answered(r *pb.ExamineResult) {
	e.mu.Lock()
	ch := e.waiting[r.GetId()]
	delete(e.waiting, r.GetId())
	e.mu.Unlock()
	if ch != nil {
		ch <- r
	}
}

var errSessionGone = errors.New("the session is gone")

// examine asks the sessions of a resource, one after the other, until one answers.
func (h *hub) examine(ctx context.Context, resource xid.ResourceID, cmd *pb.Examine) (*pb.ExamineResult, error) {
	bound := h.a.cfg.ExamineTimeout
	if deadline, ok := ctx.Deadline(); ok {
		// So that the caller hears who did not answer, not only that nobody did.
		bound = min(bound, time.Until(deadline)*9/10)
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	select {
	case h.examiners.room <- struct{}{}:
		defer func() { <-h.examiners.room }()
	case <-ctx.Done():
		return nil, limit(maxExamining, "%d questions of operators are under way", maxExamining)
	}
	h.mu.RLock()
	var sessions []*session
	if rt := h.routes[resource]; rt != nil {
		sessions = slices.Clone(rt.sessions)
		turn := int(rt.turn.Add(1)) % len(sessions)
		sessions = append(sessions[turn:], sessions[:turn]...)
	}
	h.mu.RUnlock()
	for _, s := range sessions {
		r, err := s.examine(ctx, cmd)
		switch {
		case errors.Is(err, errSessionGone):
			continue
		case err != nil && errors.Is(context.Cause(ctx), context.Canceled):
			return nil, status.FromContextError(context.Canceled).Err()
		case err != nil:
			return nil, notAttached(resource, fmt.Sprintf("the service %s did not answer within %s; it may be of an older version",
				s.clientName(), bound.Round(100*time.Millisecond)))
		}
		if codes.Code(r.GetError().GetCode()) == codes.Unimplemented {
			continue
		}
		return r, resultError(r.GetError())
	}
	return nil, notAttached(resource, "no service is attached that can; start one that has a pool on that database")
}

func notAttached(r xid.ResourceID, why string) error {
	return refusal(codes.Unavailable, pb.ErrorReason_ERROR_REASON_NOT_ATTACHED,
		fmt.Sprintf("nobody can look into resource %s: %s", r, why), "resource", r.String()).Err()
}

// resultError is what an RM refused with. Its code must not look like success.
func resultError(e *pb.Error) error {
	if e == nil {
		return nil
	}
	code := e.GetCode()
	if code <= int32(codes.OK) || code > int32(codes.Unauthenticated) {
		code = int32(codes.Unknown)
	}
	return status.FromProto(&spb.Status{Code: code, Message: e.GetMessage(), Details: e.GetDetails()}).Err()
}

func (s *session) clientName() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name
}

// examine asks one session.
func (s *session) examine(ctx context.Context, cmd *pb.Examine) (*pb.ExamineResult, error) {
	id, ch := s.a.hub.examiners.open()
	defer s.a.hub.examiners.close(id)
	cmd = proto.CloneOf(cmd)
	cmd.Id = id
	f := &pb.ServerFrame{Kind: &pb.ServerFrame_Examine{Examine: cmd}}
	s.mu.Lock()
	if s.calls == nil || s.last != goesOn {
		s.mu.Unlock()
		return nil, errSessionGone
	}
	s.queue(f, messageSize(f))
	s.mu.Unlock()
	select {
	case r := <-ch:
		return r, nil
	case <-s.ctx.Done():
		return nil, errSessionGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Diff implements the service.
func (a *admin) Diff(ctx context.Context, r *pb.DiffRequest) (*pb.DiffResponse, error) {
	n := r.GetMaxRows()
	switch {
	case n == 0:
		n = defaultExamineRows
	case n < 0 || n > maxExamineRows:
		return nil, invalid("max_rows", "%d is outside of 0 to %d", n, maxExamineRows)
	}
	tx, resources, err := a.unsettled(ctx, r.GetXid(), r.GetResourceId(), true)
	if err != nil {
		return nil, err
	}
	if tx.Outcome == core.Committed {
		return nil, wrongState(tx.XID, "transaction %s is committed: nothing of it is rolled back", tx.XID)
	}
	answers := make([]*pb.RowsToSettle, len(resources))
	var wg sync.WaitGroup
	for i, id := range resources {
		wg.Go(func() {
			got, err := a.hub.examine(ctx, id, &pb.Examine{
				ResourceId: id.String(), Xid: tx.XID.String(), Outcome: wireOutcome(tx.Outcome), MaxRows: n,
			})
			answers[i] = got.GetRows()
			if err != nil {
				answers[i] = &pb.RowsToSettle{Error: status.Convert(err).Message()}
			} else if answers[i] == nil {
				answers[i] = &pb.RowsToSettle{Error: "the service that serves it gave no answer that can be read"}
			}
			answers[i].ResourceId = id.String()
		})
	}
	wg.Wait()
	room := maxDiffBytes
	for _, rows := range answers {
		room = fit(rows, room)
	}
	return &pb.DiffResponse{Resources: answers}, nil
}

// fit drops rows that have no room; the counts still tell of them.
func fit(rows *pb.RowsToSettle, room int) int {
	for i, r := range rows.GetRows() {
		if room -= proto.Size(r) + 8; room < 0 {
			rows.Rows = rows.Rows[:i]
			return 0
		}
	}
	return room
}

// unsettled gives a transaction and the resources where it may have rows to roll
// back, or the one that is named, if it is one of them.
func (a *admin) unsettled(ctx context.Context, text, only string, operator bool) (*core.Transaction, []xid.ResourceID, error) {
	got, err := a.call(ctx, func(ref core.Ref) (core.Input, error) {
		id, err := parseXID("xid", text)
		return core.Get{Ref: ref, XID: id, Operator: operator}, err
	})
	if err != nil {
		return nil, nil, err
	}
	tx := &got.Tx
	var open []xid.ResourceID
	add := func(r xid.ResourceID) {
		if !slices.Contains(open, r) {
			open = append(open, r)
		}
	}
	for i := range tx.Settlements {
		if !tx.Settlements[i].Done {
			add(tx.Settlements[i].Resource)
		}
	}
	for i := range tx.Branches {
		if b := &tx.Branches[i]; tx.Outcome == core.Undecided && b.Vote != core.VoteWithdrawn {
			add(b.Resource)
		}
	}
	if only == "" {
		return tx, open, nil
	}
	r, err := parseResource("resource_id", only)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(open, r) {
		return nil, nil, wrongState(tx.XID, "transaction %s has nothing to settle in resource %s", tx.XID, r)
	}
	return tx, []xid.ResourceID{r}, nil
}

func wrongState(id xid.ID, format string, args ...any) error {
	return refusal(codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_WRONG_STATE, fmt.Sprintf(format, args...), "xid", id.String()).Err()
}

// Resolve implements the service.
func (a *admin) Resolve(ctx context.Context, r *pb.ResolveRequest) (*pb.ResolveResponse, error) {
	if err := checkChoose(r.GetChoose()); err != nil {
		return nil, err
	}
	tx, resources, err := a.unsettled(ctx, r.GetXid(), r.GetResourceId(), false)
	switch {
	case err != nil:
		return nil, err
	case tx.Outcome == core.Undecided:
		return nil, wrongState(tx.XID, "transaction %s is not decided: there is nothing to choose before it is rolled back", tx.XID)
	case tx.Outcome == core.Committed:
		return nil, wrongState(tx.XID, "transaction %s is committed: nothing of it is rolled back", tx.XID)
	case len(resources) == 0:
		return nil, wrongState(tx.XID, "transaction %s is rolled back and settled everywhere", tx.XID)
	case len(resources) > 1:
		var names []string
		for _, id := range resources {
			names = append(names, id.String())
		}
		return nil, invalid("resource_id", "is empty, and several databases are not settled: name one of %s", strings.Join(names, ", "))
	}
	got, err := a.hub.examine(ctx, resources[0], &pb.Examine{
		ResourceId: resources[0].String(), Xid: tx.XID.String(), Outcome: wireOutcome(tx.Outcome), MaxRows: defaultExamineRows, Choose: r.GetChoose(),
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("an operator chose what becomes of rows", "xid", tx.XID.String(), "resource", resources[0].String(),
		"operator", r.GetChoose().GetOperator(), "choice", r.GetChoose().GetChoice().String(), "rows", got.GetChosen())
	resp := &pb.ResolveResponse{Chosen: got.GetChosen(), Rows: got.GetRows()}
	fit(resp.GetRows(), maxDiffBytes)
	return resp, nil
}

// checkChoose checks what needs no database to be checked.
func checkChoose(c *pb.ChooseRows) error {
	if c == nil {
		return invalid("choose", "is empty")
	}
	if strings.TrimSpace(c.GetOperator()) == "" {
		return invalid("choose.operator", "is empty")
	}
	if err := checkName("choose.operator", c.GetOperator()); err != nil {
		return err
	}
	edit := c.GetChoice() == pb.Choice_CHOICE_EDIT
	switch n := proto.Size(c); {
	case n > maxChoiceBytes:
		return invalid("choose", "%d bytes long, at most %d", n, maxChoiceBytes)
	case len(c.GetWhy()) > maxText:
		return invalid("choose.why", "%d bytes long, at most %d", len(c.GetWhy()), maxText)
	case !edit && c.GetChoice() != pb.Choice_CHOICE_RESTORE && c.GetChoice() != pb.Choice_CHOICE_KEEP:
		return invalid("choose.choice", "%s, want CHOICE_RESTORE, CHOICE_KEEP or CHOICE_EDIT", c.GetChoice())
	case edit && c.GetAll():
		return invalid("choose.all", "can't go with CHOICE_EDIT: name the row")
	case c.GetAll() && (c.GetTable() != "" || len(c.GetKey()) > 0 || c.GetSeen() != ""):
		return invalid("choose.all", "can't go with a table, a key or what was seen")
	case !c.GetAll() && c.GetTable() == "":
		return invalid("choose.table", "is empty")
	case !c.GetAll() && len(c.GetKey()) == 0:
		return invalid("choose.key", "is empty")
	case edit != (len(c.GetValues()) > 0):
		return invalid("choose.values", "%d values with %s", len(c.GetValues()), c.GetChoice())
	}
	return nil
}

package tc_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// examiner is a resource manager that also looks at rows.
type examiner struct {
	*manager
	examine func(context.Context, *pb.Examine) *pb.ExamineResult
}

func (e *examiner) Examine(ctx context.Context, cmd *pb.Examine) *pb.ExamineResult {
	return e.examine(ctx, cmd)
}

// stuck makes a transaction with a branch at m that is rolled back and not settled.
func (r *running) stuck(t *testing.T, e *examiner) (id string) {
	t.Helper()
	e.hold = func(*pb.SettleItem) bool { return false }
	c := r.dial(t)
	if e.examine == nil {
		e.attach(t, c)
	} else if _, err := c.Attach(&pb.AttachedResource{ResourceId: e.resource, Name: "test"}, e); err != nil {
		t.Fatal(err)
	}
	r.awaitAttached(t, e.resource, 1)
	ctx := limited(t)
	id = must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{})).GetXid()
	must[*pb.RegisterBranchResponse](t)(c.RegisterBranch(ctx, &pb.RegisterBranchRequest{Xid: id, BranchId: newBranch(), ResourceId: e.resource, Mode: pb.Mode_MODE_AT}))
	must[*pb.RollbackResponse](t)(c.Rollback(ctx, &pb.RollbackRequest{Xid: id}))
	return id
}

// awaitAttached waits until n services serve a resource.
func (r *running) awaitAttached(t *testing.T, resource string, n int) {
	t.Helper()
	admin := pb.NewAdminClient(r.conn(t))
	for ctx := limited(t); ; {
		count := 0
		for _, c := range must[*pb.StatusResponse](t)(admin.Status(ctx, &pb.StatusRequest{})).GetClients() {
			for _, a := range c.GetResources() {
				if a.GetResourceId() == resource {
					count++
				}
			}
		}
		if count == n {
			return
		}
	}
}

func keepAll() *pb.ChooseRows {
	return &pb.ChooseRows{Operator: "ann", Choice: pb.Choice_CHOICE_KEEP, All: true}
}

func TestDiffAndResolveAskTheServiceOfTheDatabase(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	admin := pb.NewAdminClient(r.conn(t))
	asked := make(chan *pb.Examine, 8)
	e := &examiner{newManager(1), func(_ context.Context, cmd *pb.Examine) *pb.ExamineResult {
		asked <- cmd
		rows := &pb.RowsToSettle{Total: 2, Undecided: 1, Rows: []*pb.RowDiff{{Table: "a"}, {Table: strings.Repeat("b", 1000)}}}
		return &pb.ExamineResult{Chosen: 1, Rows: rows}
	}}
	id := r.stuck(t, e)
	d := must[*pb.DiffResponse](t)(admin.Diff(limited(t), &pb.DiffRequest{Xid: id, MaxRows: 7}))
	if len(d.GetResources()) != 1 || d.GetResources()[0].GetTotal() != 2 || d.GetResources()[0].GetResourceId() != e.resource {
		t.Errorf("got %v", d)
	}
	if q := <-asked; q.GetXid() != id || q.GetMaxRows() != 7 || q.GetChoose() != nil || q.GetOutcome() != pb.Outcome_OUTCOME_ROLLED_BACK {
		t.Errorf("asked %v", q)
	}
	a := must[*pb.ResolveResponse](t)(admin.Resolve(limited(t), &pb.ResolveRequest{Xid: id, Choose: keepAll()}))
	if a.GetChosen() != 1 || a.GetRows().GetUndecided() != 1 {
		t.Errorf("got %v", a)
	}
	if q := <-asked; q.GetChoose().GetOperator() != "ann" {
		t.Errorf("asked %v", q)
	}
}

// Whatever a service does, the operator hears in time who did not answer.
func TestDiffOfAServiceThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	admin := pb.NewAdminClient(r.conn(t))
	tests := map[string]struct {
		examine func(context.Context, *pb.Examine) *pb.ExamineResult
		reason  string
		code    codes.Code
	}{
		"silent": {func(ctx context.Context, _ *pb.Examine) *pb.ExamineResult {
			<-ctx.Done()
			return &pb.ExamineResult{}
		}, "NOT_ATTACHED", codes.Unavailable},
		"without the means": {nil, "NOT_ATTACHED", codes.Unavailable},
		"with an error that looks like success": {func(context.Context, *pb.Examine) *pb.ExamineResult {
			return &pb.ExamineResult{Error: &pb.Error{Message: "no"}}
		}, "", codes.Unknown},
	}
	n := byte(10)
	for name, tt := range tests {
		n++
		e := &examiner{newManager(n), tt.examine}
		id := r.stuck(t, e)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The coordinator answers when nine tenths of it are over.
			limit := patience
			if name == "silent" {
				limit = patience / 4
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := admin.Resolve(ctx, &pb.ResolveRequest{Xid: id, Choose: keepAll()})
			if why, _, _ := reason(err); status.Code(err) != tt.code || why != tt.reason || tt.reason != "" && !strings.Contains(err.Error(), e.resource) {
				t.Errorf("got %v", err)
			}
			ctx, cancel = context.WithTimeout(t.Context(), limit)
			defer cancel()
			if d, err := admin.Diff(ctx, &pb.DiffRequest{Xid: id, ResourceId: e.resource}); err != nil || d.GetResources()[0].GetError() == "" {
				t.Errorf("%v %v", d, err)
			}
		})
	}
}

func TestResolveRefusesBadRequests(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	admin := pb.NewAdminClient(r.conn(t))
	e := &examiner{newManager(1), func(context.Context, *pb.Examine) *pb.ExamineResult {
		t.Error("a bad request reached the service")
		return &pb.ExamineResult{}
	}}
	id := r.stuck(t, e)
	ctx := limited(t)
	open := must[*pb.BeginResponse](t)(pb.NewCoordinatorClient(r.conn(t)).Begin(ctx, &pb.BeginRequest{})).GetXid()
	with := func(change func(*pb.ChooseRows)) *pb.ResolveRequest {
		c := &pb.ChooseRows{Operator: "ann", Choice: pb.Choice_CHOICE_KEEP, Table: "t", Key: []string{"1"}}
		change(c)
		return &pb.ResolveRequest{Xid: id, Choose: c}
	}
	for name, tt := range map[string]struct {
		r             *pb.ResolveRequest
		reason, field string
	}{
		"nothing":          {&pb.ResolveRequest{}, "INVALID_FIELD", "choose"},
		"no XID":           {&pb.ResolveRequest{Choose: keepAll()}, "INVALID_FIELD", "xid"},
		"undecided":        {&pb.ResolveRequest{Xid: open, Choose: keepAll()}, "WRONG_STATE", ""},
		"bad resource":     {&pb.ResolveRequest{Xid: id, ResourceId: "x", Choose: keepAll()}, "INVALID_FIELD", "resource_id"},
		"another resource": {&pb.ResolveRequest{Xid: id, ResourceId: newManager(9).resource, Choose: keepAll()}, "WRONG_STATE", ""},
		"no operator":      {with(func(c *pb.ChooseRows) { c.Operator = " " }), "INVALID_FIELD", "choose.operator"},
		"long operator":    {with(func(c *pb.ChooseRows) { c.Operator = strings.Repeat("o", 257) }), "INVALID_FIELD", "choose.operator"},
		"long why":         {with(func(c *pb.ChooseRows) { c.Why = strings.Repeat("o", 1025) }), "INVALID_FIELD", "choose.why"},
		"no choice":        {with(func(c *pb.ChooseRows) { c.Choice = 0 }), "INVALID_FIELD", "choose.choice"},
		"unknown choice":   {with(func(c *pb.ChooseRows) { c.Choice = 9 }), "INVALID_FIELD", "choose.choice"},
		"no table":         {with(func(c *pb.ChooseRows) { c.Table = "" }), "INVALID_FIELD", "choose.table"},
		"no key":           {with(func(c *pb.ChooseRows) { c.Key = nil }), "INVALID_FIELD", "choose.key"},
		"all and one":      {with(func(c *pb.ChooseRows) { c.All = true }), "INVALID_FIELD", "choose.all"},
		"edit of nothing":  {with(func(c *pb.ChooseRows) { c.Choice = pb.Choice_CHOICE_EDIT }), "INVALID_FIELD", "choose.values"},
		"keep with values": {with(func(c *pb.ChooseRows) { c.Values = []*pb.ColumnValue{{Column: "a"}} }), "INVALID_FIELD", "choose.values"},
		"too large":        {with(func(c *pb.ChooseRows) { c.Key = []string{strings.Repeat("k", 1<<20)} }), "INVALID_FIELD", "choose"},
	} {
		_, err := admin.Resolve(ctx, tt.r)
		if why, field, _ := reason(err); why != tt.reason || field != tt.field {
			t.Errorf("%s: %.300v, field %q", name, err, field)
		}
	}
	if _, err := admin.Diff(ctx, &pb.DiffRequest{Xid: id, MaxRows: 1001}); err == nil {
		t.Error("1,001 rows")
	}
}

// A service that goes away while it is asked is no reason to wait.
func TestDiffAsksAnotherServiceWhenOneGoesAway(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	admin := pb.NewAdminClient(r.conn(t))
	e := &examiner{newManager(1), func(context.Context, *pb.Examine) *pb.ExamineResult {
		return &pb.ExamineResult{Rows: &pb.RowsToSettle{Total: 2}}
	}}
	id := r.stuck(t, e)
	asked := make(chan struct{}, 8)
	dying := r.dial(t)
	if _, err := dying.Attach(&pb.AttachedResource{ResourceId: e.resource}, &examiner{newManager(1), func(ctx context.Context, _ *pb.Examine) *pb.ExamineResult {
		asked <- struct{}{}
		<-ctx.Done()
		return &pb.ExamineResult{}
	}}); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		_ = dying.Close()
	}()
	r.awaitAttached(t, e.resource, 2)
	for range 4 { // the services take turns
		d := must[*pb.DiffResponse](t)(admin.Diff(limited(t), &pb.DiffRequest{Xid: id}))
		if d.GetResources()[0].GetTotal() != 2 {
			t.Errorf("got %v", d)
		}
	}
}

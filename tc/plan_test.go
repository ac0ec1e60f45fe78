package tc_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

func mkBranch(n int) string { return xid.BranchID{15: byte(n)}.String() }

// mkStep is a step that handlers of goodResource do and undo.
func mkStep(n int, after ...int) *pb.RegisterBranchRequest {
	p := &pb.Plan{
		Forward:  &pb.Action{Handler: "do", HandlerResource: goodResource, Payload: fmt.Append(nil, n)},
		Rollback: &pb.Action{Handler: "undo", HandlerResource: goodResource},
	}
	for _, a := range after {
		p.After = append(p.After, mkBranch(a))
	}
	return &pb.RegisterBranchRequest{BranchId: mkBranch(n), Mode: pb.Mode_MODE_SAGA, Name: fmt.Sprintf("step-%d", n), Plan: p}
}

// dtm is a call in DTM's dialect.
func dtm(url string) *pb.Action { return &pb.Action{Url: url, Dialect: pb.Dialect_DIALECT_DTM} }

func TestABadPlanNamesTheField(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	meta := r.Engine().Meta()
	good := xid.New(xid.Parts{Begin: time.Now(), Incarnation: meta.Incarnation, Store: meta.Store, Counter: 1 << 39}).String()
	forward := func(change func(*pb.Action)) func(*pb.RegisterBranchRequest) {
		return func(b *pb.RegisterBranchRequest) { change(b.Plan.Forward) }
	}
	address := func(url, grpc string) func(*pb.RegisterBranchRequest) {
		return forward(func(a *pb.Action) { a.Handler, a.HandlerResource, a.Url, a.Grpc = "", "", url, grpc })
	}
	header := func(name, value string) func(*pb.RegisterBranchRequest) {
		return forward(func(a *pb.Action) { a.Headers = []*pb.Header{{Name: "ok", Value: "ok"}, {Name: name, Value: value}} })
	}
	group := func(name string) func(*pb.RegisterBranchRequest) {
		return forward(func(a *pb.Action) { a.HandlerGroup, a.HandlerResource = name, xid.ResourceOf(name).String() })
	}
	metadata := func(name, value string) func(*pb.RegisterBranchRequest) {
		return forward(func(a *pb.Action) {
			a.Handler, a.HandlerResource, a.Grpc, a.Headers = "", "", "a:1/b/c", []*pb.Header{{Name: name, Value: value}}
		})
	}
	for name, tt := range map[string]struct {
		change func(*pb.RegisterBranchRequest)
		field  string
	}{
		"no plan":               {func(b *pb.RegisterBranchRequest) { b.Plan = nil; b.ResourceId = goodResource }, "plan"},
		"a plan for AT":         {func(b *pb.RegisterBranchRequest) { b.Mode, b.ResourceId = pb.Mode_MODE_AT, goodResource }, "plan"},
		"no mode":               {func(b *pb.RegisterBranchRequest) { b.Mode = 0 }, "mode"},
		"votes no":              {func(b *pb.RegisterBranchRequest) { b.Vote = pb.Vote_VOTE_NO }, "vote"},
		"blank in the name":     {func(b *pb.RegisterBranchRequest) { b.Name = "a b" }, "name"},
		"a long name":           {func(b *pb.RegisterBranchRequest) { b.Name = strings.Repeat("n", 129) }, "name"},
		"a long result":         {func(b *pb.RegisterBranchRequest) { b.Result = make([]byte, 64<<10+1) }, "result"},
		"no target":             {address("", ""), "plan.forward.url"},
		"two targets":           {address("http://a/", "a:1/b/c"), "plan.forward.url"},
		"another scheme":        {address("ftp://a/", ""), "plan.forward.url"},
		"no scheme":             {address("a/b", ""), "plan.forward.url"},
		"no host":               {address("http:///x", ""), "plan.forward.url"},
		"a host to fill in":     {address("http://${steps.a.b}/", ""), "plan.forward.url"},
		"credentials":           {address("http://u:p@a/", ""), "plan.forward.url"},
		"a long address":        {address("http://a/"+strings.Repeat("a", 2048), ""), "plan.forward.url"},
		"no port":               {address("", "a/b/c"), "plan.forward.grpc"},
		"port 99999":            {address("http://127.0.0.1:99999/", ""), "plan.forward.url"},
		"port 0":                {address("http://a:0/", ""), "plan.forward.url"},
		"no ASCII":              {address("http://hötel.localhost/", ""), "plan.forward.url"},
		"port 99999 of gRPC":    {address("", "a:99999/b/c"), "plan.forward.grpc"},
		"no ASCII in gRPC":      {address("", "a:1/ä/c"), "plan.forward.grpc"},
		"Expect":                {header("Expect", "x"), "plan.forward.headers[1].name"},
		"TE":                    {header("TE", "x"), "plan.forward.headers[1].name"},
		"Keep-Alive":            {header("Keep-Alive", "x"), "plan.forward.headers[1].name"},
		"metadata of gRPC":      {metadata("content-type", "x"), "plan.forward.headers[0].name"},
		"a tab in metadata":     {metadata("a", "\t"), "plan.forward.headers[0].value"},
		"no method":             {address("", "a:1/b"), "plan.forward.grpc"},
		"another gRPC scheme":   {address("", "http://a:1/b/c"), "plan.forward.grpc"},
		"another group":         {forward(func(a *pb.Action) { a.HandlerGroup = "payments" }), "plan.forward.handler_group"},
		"a line end in a group": {group("a\nb"), "plan.forward.handler_group"},
		"no group":              {forward(func(a *pb.Action) { a.HandlerResource = "" }), "plan.forward.handler_resource"},
		"5 MB":                  {forward(func(a *pb.Action) { a.Payload = make([]byte, 1<<20+1) }), "plan.forward.payload"},
		"too long a timeout":    {forward(func(a *pb.Action) { a.Timeout = durationpb.New(2 * time.Hour) }), "plan.forward.timeout"},
		"a negative delay":      {forward(func(a *pb.Action) { a.Delay = durationpb.New(-1) }), "plan.forward.delay"},
		"a header of ours":      {header("Handfast-Xid", "x"), "plan.forward.headers[1].name"},
		"the host header":       {header("Host", "x"), "plan.forward.headers[1].name"},
		"no header name":        {header("", "x"), "plan.forward.headers[1].name"},
		"a line end in a value": {header("a", "x\r\ny"), "plan.forward.headers[1].value"},
		"after nonsense":        {func(b *pb.RegisterBranchRequest) { b.Plan.After = []string{goodBranch, "x"} }, "plan.after[1]"},
		"after too many":        {func(b *pb.RegisterBranchRequest) { b.Plan.After = make([]string, 33) }, "plan.after"},
		"DTM and a handler":     {forward(func(a *pb.Action) { a.Dialect = pb.Dialect_DIALECT_DTM }), "plan.forward.dialect"},
		"no such dialect": {forward(func(a *pb.Action) {
			a.Handler, a.HandlerResource, a.Url, a.Dialect = "", "", "http://a/", 7
		}), "plan.forward.dialect"},
		"DTM and a workflow": {func(b *pb.RegisterBranchRequest) {
			b.Mode, b.Plan.Forward = pb.Mode_MODE_WORKFLOW, dtm("http://a/")
		}, "plan.forward.dialect"},
		"DTM and a workflow's step": {func(b *pb.RegisterBranchRequest) {
			b.Mode, b.Plan = pb.Mode_MODE_WORKFLOW, &pb.Plan{Rollback: dtm("http://a/")}
		}, "plan.rollback.dialect"},
		"DTM and the commit of a workflow": {func(b *pb.RegisterBranchRequest) {
			b.Mode, b.Plan = pb.Mode_MODE_WORKFLOW, &pb.Plan{Commit: dtm("http://a/")}
		}, "plan.commit.dialect"},
		"DTM and the rollback of a message": {func(b *pb.RegisterBranchRequest) {
			b.Mode, b.Plan.Rollback = pb.Mode_MODE_MESSAGE, dtm("http://a/")
		}, "plan.rollback.dialect"},
		"DTM and a second call of a step": {func(b *pb.RegisterBranchRequest) { b.Plan.Commit = dtm("http://a/") }, "plan.commit.dialect"},
		"DTM and no URL":                  {func(b *pb.RegisterBranchRequest) { b.Plan.Forward = dtm("a") }, "plan.forward.url"},
		"a shrinking pause":               {func(b *pb.RegisterBranchRequest) { b.Plan.Retry = &pb.RetryPolicy{Percent: 50} }, "plan.retry.percent"},
		"no pause":                        {func(b *pb.RegisterBranchRequest) { b.Plan.Retry = &pb.RetryPolicy{First: durationpb.New(0)} }, "plan.retry.first"},
	} {
		for form, c := range forms(t, r) {
			t.Run(form+"/"+name, func(t *testing.T) {
				t.Parallel()
				alone, second := mkStep(1), mkStep(2)
				alone.Xid = good
				tt.change(alone)
				tt.change(second)
				_, err := c.do(limited(t), alone)
				if reasonName, field, _ := reason(err); status.Code(err) != codes.InvalidArgument || reasonName != "INVALID_FIELD" || field != tt.field {
					t.Errorf("register: %v, field %q, want %q", err, field, tt.field)
				}
				_, err = c.do(limited(t), &pb.SubmitRequest{Xid: good, Branches: []*pb.RegisterBranchRequest{mkStep(1), second}})
				if _, field, _ := reason(err); status.Code(err) != codes.InvalidArgument || field != "branches[1]."+tt.field {
					t.Errorf("submit: %v, field %q", err, field)
				}
			})
		}
	}
}

func TestSubmitRefusesWhatCanNotRun(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	for form, c := range forms(t, r) {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			begin := func() string {
				b, err := c.do(limited(t), &pb.BeginRequest{})
				if err != nil {
					t.Fatal(err)
				}
				return b.(*pb.BeginResponse).GetXid()
			}
			at := mkRegister("")
			for name, tt := range map[string]struct {
				req  *pb.SubmitRequest
				want string
			}{
				"a cycle":          {&pb.SubmitRequest{Branches: []*pb.RegisterBranchRequest{mkStep(1, 2), mkStep(2, 1)}}, "UNKNOWN_BRANCH"},
				"an unknown step":  {&pb.SubmitRequest{Branches: []*pb.RegisterBranchRequest{mkStep(1, 7)}}, "UNKNOWN_BRANCH"},
				"other XID inside": {&pb.SubmitRequest{Branches: []*pb.RegisterBranchRequest{mkRegister("x")}}, "INVALID_FIELD"},
				"too long for AT":  {&pb.SubmitRequest{Timeout: durationpb.New(13 * time.Hour), Branches: []*pb.RegisterBranchRequest{at}}, "INVALID_FIELD"},
				"twice, otherwise": {&pb.SubmitRequest{Branches: []*pb.RegisterBranchRequest{mkStep(1), mkStep(1, 1)}}, "BRANCH_CONFLICT"},
			} {
				tt.req.Xid = begin()
				_, err := c.do(limited(t), tt.req)
				if got, _, _ := reason(err); got != tt.want {
					t.Errorf("%s: %v, want %s", name, err, tt.want)
				}
				g, err := c.do(limited(t), &pb.GetRequest{Xid: tt.req.GetXid()})
				if tx := g.(*pb.GetResponse).GetTransaction(); err != nil || tx.GetSubmitted() || len(tx.GetBranches()) != 0 {
					t.Errorf("%s: something of it was kept: %v, %v", name, tx, err)
				}
			}
		})
	}
}

// recorder stands for what makes calls to addresses.
type recorder struct {
	mu    sync.Mutex
	calls []core.Call
	more  chan struct{}
}

func (r *recorder) Call(c core.Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
	r.more <- struct{}{}
}

// A plan is carried out by handlers on the stream and by calls to addresses, and
// shows what was tried.
func TestAPlanIsCarriedOut(t *testing.T) {
	t.Parallel()
	rec := &recorder{more: make(chan struct{}, 100)}
	r := start(t, t.TempDir(), func(c *tc.Config) {
		c.API.Caller = rec
		c.API.Expand = func(p []byte, before []core.Result, own []byte) ([]byte, error) {
			return fmt.Appendf(nil, "%s/%d/%s", p, len(before), own), nil
		}
	})
	cc := r.conn(t)
	s := openSession(t, cc, &pb.Hello{ClientName: "handlers"})
	begun, err := s.do(limited(t), &pb.BeginRequest{})
	if err != nil {
		t.Fatal(err)
	}
	id := begun.(*pb.BeginResponse).GetXid()
	message := &pb.RegisterBranchRequest{
		BranchId: mkBranch(3), Mode: pb.Mode_MODE_MESSAGE, Vote: pb.Vote_VOTE_YES,
		Plan: &pb.Plan{Commit: &pb.Action{Url: "http://bus/${steps.step-2}", Payload: []byte("hello"), Headers: []*pb.Header{{Name: "Secret", Value: "s3cret!"}}}, After: []string{mkBranch(2)}},
	}
	if _, err := s.do(limited(t), &pb.SubmitRequest{Xid: id, Branches: []*pb.RegisterBranchRequest{mkStep(1), mkStep(2, 1), message}}); err != nil {
		t.Fatal(err)
	}
	g, err := s.do(limited(t), &pb.GetRequest{Xid: id})
	if err != nil {
		t.Fatal(err)
	}
	if b := g.(*pb.GetResponse).GetTransaction().GetBranches()[0]; !strings.Contains(b.GetForward().GetLastError(), "attached") {
		t.Errorf("nobody is attached, and it says %v", b.GetForward())
	}
	attach := &pb.ClientFrame{Kind: &pb.ClientFrame_Attach{Attach: &pb.Attach{Resources: []*pb.AttachedResource{{ResourceId: goodResource, Name: "handlers"}}}}}
	if _, err := s.ask(limited(t), attach); err != nil {
		t.Fatal(err)
	}
	next := func() *pb.Call {
		t.Helper()
		select {
		case f := <-s.other:
			return f.GetCall()
		case <-limited(t).Done():
			t.Fatal("no call")
			return nil
		}
	}
	answer := func(c *pb.Call, v pb.Verdict, result string) {
		t.Helper()
		s.send(t, &pb.ClientFrame{Kind: &pb.ClientFrame_CallResult{CallResult: &pb.CallResult{
			Xid: c.GetXid(), BranchId: c.GetBranchId(), Op: c.GetOp(), Attempt: c.GetAttempt(), Incarnation: c.GetIncarnation(), Verdict: v, Result: []byte(result), Error: result,
		}}})
	}
	one := next()
	if one.GetHandler() != "do" || one.GetName() != "step-1" || string(one.GetPayload()) != "1/0/" || one.GetOp() != pb.Op_OP_FORWARD || one.GetTimeout().AsDuration() != 10*time.Second {
		t.Errorf("call %v", one)
	}
	answer(one, pb.Verdict_VERDICT_UNSURE, "try later")
	one = next()
	if one.GetAttempt() != 2 {
		t.Errorf("attempt %d", one.GetAttempt())
	}
	late := proto.CloneOf(one) // the second attempt of another start of the coordinator
	late.Incarnation++
	answer(late, pb.Verdict_VERDICT_FAILED, "sold out")
	answer(one, pb.Verdict_VERDICT_DONE, `{"room": 7}`)
	two := next()
	if len(two.GetBefore()) != 1 || string(two.GetBefore()[0].GetValue()) != `{"room": 7}` || string(two.GetPayload()) != "2/1/" {
		t.Errorf("call %v", two)
	}
	answer(two, pb.Verdict_VERDICT_DONE, "")
	<-rec.more
	c := rec.calls[0]
	if c.Action.Address != "http://bus/${steps.step-2}" || c.Op != core.OpForward || c.Action.Header[0].Value != "s3cret!" {
		t.Errorf("call %+v", c)
	}
	g, err = s.do(limited(t), &pb.GetRequest{Xid: id})
	if err != nil {
		t.Fatal(err)
	}
	tx := g.(*pb.GetResponse).GetTransaction()
	if tx.GetOutcome() != pb.Outcome_OUTCOME_COMMITTED || len(tx.GetSettlements()) != 1 || tx.GetSettlements()[0].GetBranchId() != mkBranch(3) || strings.Contains(tx.String(), "s3cret!") || strings.Contains(tx.String(), "hello") {
		t.Errorf("it shows %v", tx)
	}
	r.Engine().Post(core.Called{XID: c.XID, Branch: c.Branch, Op: c.Op, Attempt: c.Attempt, Verdict: core.Done})
	if w, err := s.do(limited(t), &pb.CommitRequest{Xid: id, WaitSettled: true}); err != nil || w.(*pb.CommitResponse).GetOutcome() != pb.Outcome_OUTCOME_COMMITTED {
		t.Errorf("%v, %v", w, err)
	}
}

func TestTheGroupOfAHandlerIsKept(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	for form, c := range forms(t, r) {
		begun, err := c.do(limited(t), &pb.BeginRequest{})
		if err != nil {
			t.Fatal(err)
		}
		id := begun.(*pb.BeginResponse).GetXid()
		step := mkStep(1)
		step.Plan.Forward = target.Handler("payments", "charge").Proto()
		if _, err := c.do(limited(t), &pb.SubmitRequest{Xid: id, Branches: []*pb.RegisterBranchRequest{step}}); err != nil {
			t.Fatal(err)
		}
		g, err := c.do(limited(t), &pb.GetRequest{Xid: id})
		if err != nil {
			t.Fatal(err)
		}
		p := g.(*pb.GetResponse).GetTransaction().GetBranches()[0].GetPlan()
		if got := p.GetForward().GetHandlerGroup(); got != "payments" || p.GetRollback().GetHandlerGroup() != "" {
			t.Errorf("%s: the group is %q, that of the rollback %q", form, got, p.GetRollback().GetHandlerGroup())
		}
	}
}

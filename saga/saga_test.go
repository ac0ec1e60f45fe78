package saga_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	do   = target.HTTP("http://h/do")
	undo = saga.Compensate(target.HTTP("http://h/undo"))
	none = saga.NoCompensation()
)

func many(n int) *saga.Definition {
	d := saga.New("many").Parallel()
	for i := range n {
		d.Step(fmt.Sprintf("s%d", i), do, undo)
	}
	return d
}

func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("s%d", i))
	}
	return out
}

func TestValidateNamesTheStepAndWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	large := target.Payload([]byte(strings.Repeat("x", target.MaxPayload)))
	for name, c := range map[string]struct {
		d    *saga.Definition
		want string // "" where it is right
	}{
		"sequence":         {d: saga.New("trip").Step("a", do, undo).Step("b", do, undo).Timeout(time.Hour)},
		"pivot":            {d: saga.New("trip").Step("a", do, undo).Step("b", do, saga.Pivot()).Step("c", do)},
		"forward":          {d: saga.New("").ForwardRecovery().Step("a", do).Step("b", do)},
		"largest":          {d: many(saga.MaxSteps)},
		"diamond":          {d: saga.New("d").Parallel().Step("d", do, undo, saga.After("b", "c", "b")).Step("b", do, undo, saga.After("a")).Step("c", do, undo, saga.After("a")).Step("a", do, undo)},
		"nothing to undo":  {d: saga.New("d").Step("read", do, none)},
		"results":          {d: saga.New("d").Step("a", do, undo).Step("b", do, undo).Step("c", target.HTTP("http://h/${steps.a}", target.Payload("${steps.b.x}")), saga.Compensate(target.HTTP("http://h", target.Payload("${own}"))))},
		"no steps":         {d: saga.New("trip"), want: `saga "trip": it has no steps; want from 1 to 256`},
		"too many":         {d: many(saga.MaxSteps + 1), want: `saga "many": it has 257 steps; want at most 256`},
		"long name":        {d: saga.New(strings.Repeat("x", 257)).Step("a", do, undo), want: "its name is 257 bytes long; want at most 256"},
		"name of lines":    {d: saga.New("a\nb").Step("a", do, undo), want: "its name is not one line of UTF-8"},
		"timeout":          {d: saga.New("trip").Step("a", do, undo).Timeout(-1), want: `saga "trip": its timeout is -1ns; want from 1ms to 720h0m0s, or 0 for none`},
		"no step name":     {d: saga.New("trip").Step("", do, undo), want: `saga "trip": step "#1": the name is empty; want letters, digits, "_" and "-"`},
		"step name":        {d: saga.New("trip").Step("a b", do, undo), want: `step "#1": the name "a b"; want letters`},
		"same name":        {d: saga.New("trip").Step("a", do, undo).Step("a", do, undo), want: `saga "trip": step "a": another step has the same name`},
		"no action":        {d: saga.New("trip").Step("a", target.Target{}, undo), want: `saga "trip": step "a": it has no action; want one of http, grpc and handler`},
		"bad action":       {d: saga.New("trip").Step("a", target.HTTP("h"), undo), want: `saga "trip": step "a": http: "h"; want a URL`},
		"bad compensation": {d: saga.New("trip").Step("a", do, saga.Compensate(target.GRPC("h"))), want: `saga "trip": step "a": compensate: grpc: "h"; want host:port`},
		"payload":          {d: saga.New("trip").Step("a", do, undo, saga.Input([]byte(strings.Repeat("x", target.MaxPayload+1)))), want: `step "a": payload: 1048577 bytes long; want at most 1048576`},
		"payload, no JSON": {d: saga.New("trip").Step("a", do, undo, saga.Input(func() {})), want: `step "a": input: func() as JSON`},
		"large":            {d: saga.New("trip").Step("a", target.HTTP("http://h", large), undo).Step("b", do, undo), want: `saga "trip": it is 2097`},
		"no compensation":  {d: saga.New("trip").Step("a", do), want: `saga "trip": step "a": it has no compensation; add one, or say that nothing needs to be undone with no_compensation`},
		"both":             {d: saga.New("trip").Step("a", do, undo, none), want: `step "a": it has a compensation, and says that it has none`},
		"unknown":          {d: saga.New("trip").Step("a", do, undo, saga.After("x")), want: `saga "trip": step "a": after: there is no step "x"; the steps are a`},
		"itself":           {d: saga.New("trip").Step("a", do, undo, saga.After("a")), want: `step "a": after: the steps wait for each other in a circle, a after a; take one of these out`},
		"circle": {
			d:    saga.New("trip").Parallel().Step("x", do, undo).Step("a", do, undo, saga.After("x", "b")).Step("b", do, undo, saga.After("c")).Step("c", do, undo, saga.After("a")),
			want: "in a circle, a after b after c after a; take one of these out",
		},
		"after too many": {d: many(40).Step("z", do, undo, saga.After(names(33)...)), want: `step "z": after: 33 steps; want at most 32, and other steps between`},
		"two pivots":     {d: saga.New("trip").Step("a", do, saga.Pivot()).Step("b", do, saga.Pivot()), want: `step "b": it is a pivot, and "a" is one, too; one step decides`},
		"two pivots at once": {
			d:    saga.New("trip").Parallel().Step("a", do, saga.Pivot()).Step("b", do, saga.Pivot()),
			want: `step "b": it is a pivot, and "a" is one, too`,
		},
		"beside the pivot": {
			d:    saga.New("trip").Parallel().Step("a", do, undo).Step("p", do, saga.Pivot()),
			want: `step "a": it comes neither before nor after the pivot "p"; name one in "after" of the other`,
		},
		"pivot undone":       {d: saga.New("trip").Step("a", do, undo, saga.Pivot()), want: `step "a": a pivot is never undone; take its compensation out`},
		"retry of all":       {d: saga.New("trip").Step("a", do, undo).Retry(target.RetryPolicy{Percent: 1}), want: `saga "trip": retry: percent is 1; want from 100 to 1000`},
		"all given up":       {d: saga.New("trip").ForwardRecovery().Step("a", do).Retry(target.RetryPolicy{Attempts: 1}), want: `saga "trip": retry: all its steps are tried until they succeed`},
		"pivot given up":     {d: saga.New("trip").Step("a", do, saga.Pivot(), saga.Retry(target.RetryPolicy{Attempts: 3})), want: `step "a": retry: a pivot has no limit of attempts`},
		"pivot in time":      {d: saga.New("trip").Step("a", do, saga.Pivot()).Timeout(time.Hour), want: `step "a": a saga with a pivot has no timeout`},
		"delivery undone":    {d: saga.New("trip").Step("a", do, saga.Pivot()).Step("b", do, undo), want: `step "b": it is tried until it succeeds and never undone; take its compensation out`},
		"delivery given up":  {d: saga.New("trip").ForwardRecovery().Step("a", do, saga.Retry(target.RetryPolicy{Attempts: 3})), want: `step "a": retry: it is tried until it succeeds, so it has no limit`},
		"forward with pivot": {d: saga.New("trip").ForwardRecovery().Step("a", do, saga.Pivot()), want: `step "a": it is a pivot, and all steps are tried until they succeed`},
		"forward in time":    {d: saga.New("trip").ForwardRecovery().Step("a", do).Timeout(time.Hour), want: `saga "trip": it has a timeout, and all its steps are tried until they succeed`},
		"retry percent":      {d: saga.New("trip").Step("a", do, undo, saga.Retry(target.RetryPolicy{Percent: 99})), want: `step "a": retry: percent is 99; want from 100 to 1000, or 0 for 200`},
		"retry first":        {d: saga.New("trip").Step("a", do, undo, saga.Retry(target.RetryPolicy{First: -1})), want: `step "a": retry: first is -1ns; want from 1ms to 720h0m0s`},
		"result of a later":  {d: saga.New("trip").Step("a", do, undo, saga.Input("${steps.b}")).Step("b", do, undo), want: `step "a": it uses the result of "b", which does not come before it`},
		"result of none":     {d: saga.New("trip").Step("a", do, undo, saga.Input("${steps.x}")), want: `step "a": it uses the result of a step "x"; the steps are a`},
		"result in undo":     {d: saga.New("trip").Step("a", do, saga.Compensate(target.HTTP("http://h/${steps.x}"))), want: `step "a": compensate: it uses the result of a step "x"`},
		"its own result":     {d: saga.New("trip").Step("a", do, undo, saga.Input("${own.id}")), want: `step "a": it uses its own result, which only its compensation can`},
		"result of DTM": {
			d:    saga.New("trip").Step("a", target.HTTP("http://h", target.DTM()), undo).Step("b", do, undo, saga.Input("${steps.a.id}")),
			want: `step "b": it uses the result of "a", which has none: it is called as DTM would`,
		},
		"own result of DTM": {
			d:    saga.New("trip").Step("a", target.HTTP("http://h", target.DTM()), saga.Compensate(target.HTTP("http://h", target.Payload("${own}")))),
			want: `step "a": compensate: it uses the result of the step, which has none`,
		},
		"no references in DTM": {d: saga.New("trip").Step("a", target.HTTP("http://h/${x", target.DTM()), saga.Input("${own}"),
			saga.Compensate(target.HTTP("http://h/${steps.no}", target.DTM())))},
		"malformed reference": {d: saga.New("trip").Step("a", do, undo, saga.Input("${a}")), want: `step "a": payload: "${a}": want ${steps.NAME}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.d.Validate()
			var e *saga.Error
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v", err)
			case c.want != "" && (!errors.As(err, &e) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if _, err2 := c.d.Request(xid.ID{1}); (err2 == nil) != (err == nil) {
				t.Errorf("Request says %v, Validate %v", err2, err)
			}
		})
	}
}

func TestAllThatIsWrongWithStepsIsToldAtOnce(t *testing.T) {
	t.Parallel()
	err := saga.New("trip").Step("a", target.HTTP("h"), saga.After("x")).Step("b", target.Target{}).Validate()
	for _, want := range []string{`step "a": http`, `step "a": after`, `step "b": it has no action`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// shape writes a request down: each branch with what it comes after and what it has.
func shape(t *testing.T, d *saga.Definition) string {
	t.Helper()
	id := xid.ID{1}
	r, err := d.Request(id)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := d.Request(id)
	other, _ := d.Request(xid.ID{2})
	if again.String() != r.String() || other.GetBranches()[0].GetBranchId() == r.GetBranches()[0].GetBranchId() {
		t.Error("the branches' ids do not follow from the XID")
	}
	name := make(map[string]string)
	var out []string
	for _, b := range r.GetBranches() {
		p := b.GetPlan()
		s := b.GetName()
		for _, x := range []struct {
			mark string
			a    *pb.Action
		}{{">", p.GetForward()}, {"!", p.GetCommit()}, {"<", p.GetRollback()}} {
			if x.a != nil {
				s += x.mark
			}
		}
		if b.GetVote() == pb.Vote_VOTE_YES {
			s += "+"
		}
		var after []string
		for _, a := range p.GetAfter() {
			if name[a] == "" {
				t.Errorf("%s comes after a branch that is not registered before it", b.GetName())
			}
			after = append(after, name[a])
		}
		slices.Sort(after)
		name[b.GetBranchId()] = b.GetName()
		out = append(out, s+"("+strings.Join(after, " ")+")")
		if b.GetMode() != pb.Mode_MODE_SAGA {
			t.Errorf("mode %v", b.GetMode())
		}
	}
	return strings.Join(out, " ")
}

func TestRequestIsThePlan(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		d    *saga.Definition
		want string
	}{
		"sequence":      {saga.New("").Step("a", do, undo).Step("b", do, undo).Step("c", do, undo), "a><() b><(a) c><(b)"},
		"parallel":      {saga.New("").Parallel().Step("a", do, undo).Step("b", do, undo).Step("c", do, undo, saga.After("a", "b")), "a><() b><() c><(a b)"},
		"start at once": {saga.New("").Step("a", do, undo).Step("b", do, undo, saga.After()).Step("c", do, undo), "a><() b><() c><(b)"},
		"order":         {saga.New("").Parallel().Step("b", do, undo, saga.After("a")).Step("a", do, undo), "a><() b><(a)"},
		"pivot":         {saga.New("").Step("a", do, undo).Step("p", do, saga.Pivot()).Step("b", do).Step("c", do), "a><() p>(a) b!+(p) c!+(b)"},
		"forward":       {saga.New("").ForwardRecovery().Step("a", do).Step("b", do), "a!+() b!+(a)"},
		// c is undone before a, although b between them has nothing to undo.
		"gap": {saga.New("").Step("a", do, undo).Step("b", do, none).Step("x", do, none).Step("c", do, undo), "a><() b>(a) x>(a b) c><(a b x)"},
		// Results come from direct neighbours only.
		"result": {saga.New("").Step("a", do, undo).Step("b", do, undo).Step("c", do, undo, saga.Input("${steps.a}")), "a><() b><(a) c><(a b)"},
		"result in undo": {
			saga.New("").Step("a", do, undo).Step("b", do, undo).Step("c", do, saga.Compensate(target.HTTP("http://h/${steps.a}"))), "a><() b><(a) c><(a b)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := shape(t, c.d); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// Its attempts are for those steps that may be given up.
func TestStepsWithoutAPolicyHaveThatOfTheSaga(t *testing.T) {
	t.Parallel()
	own := target.RetryPolicy{Max: time.Hour}
	r, err := saga.New("trip").Retry(target.RetryPolicy{First: time.Second, Attempts: 3, AttentionAfter: 2}).
		Step("a", do, undo).Step("b", do, undo, saga.Retry(own)).Step("c", do, saga.Pivot()).Step("d", do).Step("e", do, saga.Retry(own)).
		Request(xid.New(xid.Parts{Counter: 1}))
	if err != nil {
		t.Fatal(err)
	}
	limited, unlimited := `attempts:3`, `attempts:0`
	for i, want := range []string{limited, "own", unlimited, unlimited, "own"} {
		p := r.GetBranches()[i].GetPlan().GetRetry()
		got := fmt.Sprintf("attempts:%d", p.GetAttempts())
		switch {
		case p.GetMax().AsDuration() == time.Hour && p.GetFirst() == nil && p.GetAttentionAfter() == 0:
			got = "own"
		case p.GetFirst().AsDuration() != time.Second || p.GetAttentionAfter() != 2 || p.GetMax() != nil:
			t.Errorf("step %d: %v", i, p)
		}
		if got != want {
			t.Errorf("step %d: got %s, want %s", i, got, want)
		}
	}
}

func TestStepOptionsReachThePlan(t *testing.T) {
	t.Parallel()
	r, err := saga.New("trip").Timeout(time.Hour).
		Step("a", do, undo, saga.Input(map[string]int{"n": 1}), saga.Timeout(3*time.Second), saga.Retry(target.RetryPolicy{
			First: time.Second, Max: time.Minute, Percent: 150, Attempts: 4, AttentionAfter: 2,
		})).
		Step("b", do, saga.Compensate(target.HTTP("http://h", target.Payload("x"), target.Timeout(time.Second)))).Request(xid.ID{1})
	if err != nil {
		t.Fatal(err)
	}
	a, b := r.GetBranches()[0].GetPlan(), r.GetBranches()[1].GetPlan()
	if string(a.GetForward().GetPayload()) != `{"n":1}` || string(a.GetRollback().GetPayload()) != `{"n":1}` || a.GetRollback().GetTimeout().AsDuration() != 3*time.Second {
		t.Errorf("got %v", a)
	}
	p := a.GetRetry()
	if p.GetFirst().AsDuration() != time.Second || p.GetMax().AsDuration() != time.Minute || p.GetPercent() != 150 || p.GetAttempts() != 4 || p.GetAttentionAfter() != 2 {
		t.Errorf("got %v", p)
	}
	if string(b.GetRollback().GetPayload()) != `"x"` || b.GetRollback().GetTimeout().AsDuration() != time.Second || b.GetRetry() != nil {
		t.Errorf("got %v", b)
	}
	if r.GetTimeout().AsDuration() != time.Hour {
		t.Errorf("got %v", r.GetTimeout())
	}
}

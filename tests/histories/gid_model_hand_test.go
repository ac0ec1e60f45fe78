package histories

import (
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"
)

// gidAt is an operation between two moments.
func gidAt(call, ret int64, in gidInput, status ...string) porcupine.Operation {
	op := porcupine.Operation{Input: in, Output: gidOutput{}, Call: call, Return: ret}
	if len(status) > 0 {
		op.Output = gidOutput{status: status[0]}
	}
	return op
}

func TestTheModelOfAGid(t *testing.T) {
	t.Parallel()
	of := func(m gidMode, do gidAction) gidInput {
		return gidInput{do: do, mode: m, steps: map[gidMode]int{modeMsg: 1, modeSaga: 1}[m]}
	}
	called := func(m gidMode, op gidOp) gidInput { in := of(m, foundCalled); in.op = op; return in }
	crash := func(in gidInput) gidInput { in.crashes = true; return in }
	prepare, register, submit, abort := of(modeTCC, gidPrepare), of(modeTCC, gidRegister), of(modeTCC, gidSubmit), of(modeTCC, gidAbort)
	shown, done, never := of(modeTCC, toldStatus), of(modeTCC, gidDone), endOfTime
	type story []porcupine.Operation
	saga := story{gidAt(1, 2, of(modeSaga, gidSubmit)), gidAt(3, 3, called(modeSaga, opAction))}
	tried := slices.Concat(saga, story{gidAt(3, 3, of(modeSaga, gidHappens)), gidAt(3, never, of(modeSaga, gidYes))})
	for name, tt := range map[string]struct {
		want bool
		ops  story
	}{
		"submitted without a branch": {true, story{gidAt(1, 2, prepare), gidAt(3, 4, submit), gidAt(5, 6, shown, "succeed")}},
		"over before it is confirmed": {false, story{
			gidAt(1, 2, prepare), gidAt(3, 4, register), gidAt(3, 4, of(modeTCC, toldBranch)), gidAt(5, 6, submit), gidAt(5, 6, shown, "succeed")}},
		"over when it is confirmed": {true, story{
			gidAt(1, 2, prepare), gidAt(3, 4, register), gidAt(5, 6, submit), gidAt(7, 7, called(modeTCC, opConfirm)), gidAt(7, never, done), gidAt(8, 9, shown, "succeed")}},
		"confirmed before the submit": {false, story{gidAt(1, 2, prepare), gidAt(3, 4, register), gidAt(4, 4, called(modeTCC, opConfirm)), gidAt(5, 6, submit)}},
		"cancelled after the submit": {false, story{
			gidAt(1, 2, prepare), gidAt(3, 4, register), gidAt(5, 6, submit), gidAt(5, 6, of(modeTCC, toldSubmitted)), gidAt(5, never, abort), gidAt(7, 7, called(modeTCC, opCancel))}},
		"back to prepared":         {false, story{gidAt(1, 2, prepare), gidAt(3, never, submit), gidAt(3, 4, shown, "submitted"), gidAt(5, 6, shown, "prepared")}},
		"back from the end":        {false, story{gidAt(1, 2, prepare), gidAt(3, never, submit), gidAt(3, 4, shown, "succeed"), gidAt(5, 6, shown, "submitted")}},
		"submitted twice":          {true, story{gidAt(1, 2, submit), gidAt(1, 2, of(modeTCC, toldSubmitted)), gidAt(3, 4, submit), gidAt(3, 4, of(modeTCC, toldSubmitted))}},
		"submitted after it ended": {false, story{gidAt(1, 2, submit), gidAt(3, 4, shown, "succeed"), gidAt(5, 6, submit), gidAt(5, 6, of(modeTCC, toldSubmitted))}},
		"submitted after the abort": {false, story{
			gidAt(1, 2, prepare), gidAt(3, 4, abort), gidAt(3, 4, of(modeTCC, toldAborted)), gidAt(5, 6, submit), gidAt(5, 6, of(modeTCC, toldSubmitted))}},
		"aborted after the submit": {false, story{
			gidAt(1, 2, submit), gidAt(1, 2, of(modeTCC, toldSubmitted)), gidAt(5, 6, abort), gidAt(5, 6, of(modeTCC, toldAborted))}},
		"refused for what is so":     {true, story{gidAt(1, 2, prepare), gidAt(3, 4, abort), gidAt(5, 6, submit), gidAt(5, 6, of(modeTCC, toldRolled))}},
		"refused for what is not so": {false, story{gidAt(1, 2, prepare), gidAt(5, 6, submit), gidAt(5, 6, of(modeTCC, toldRolled))}},
		"a branch after the submit": {false, story{
			gidAt(1, 2, submit), gidAt(1, 2, of(modeTCC, toldSubmitted)), gidAt(3, 4, register), gidAt(3, 4, of(modeTCC, toldBranch))}},
		"forgotten without a crash":     {false, story{gidAt(1, 2, prepare), gidAt(1, 2, of(modeTCC, toldPrepared)), gidAt(3, 4, shown, "")}},
		"forgotten by a crash":          {true, story{gidAt(1, 2, prepare), gidAt(1, 2, of(modeTCC, toldPrepared)), gidAt(3, 4, crash(shown), "")}},
		"forgotten after it was shown":  {false, story{gidAt(1, 2, prepare), gidAt(3, 4, crash(shown), "prepared"), gidAt(5, 6, crash(shown), "")}},
		"forgotten with its branch":     {false, story{gidAt(1, 2, prepare), gidAt(3, 4, register), gidAt(3, 4, of(modeTCC, toldBranch)), gidAt(5, 6, crash(shown), "")}},
		"a message forgotten":           {false, story{gidAt(1, 2, of(modeMsg, gidPrepare)), gidAt(1, 2, of(modeMsg, toldPrepared)), gidAt(3, 4, crash(of(modeMsg, toldStatus)), "")}},
		"a timeout before its time":     {false, story{gidAt(1, 2, prepare), gidAt(3, 4, shown, "failed"), gidAt(5, never, of(modeTCC, gidExpire))}},
		"a timeout":                     {true, story{gidAt(1, 2, prepare), gidAt(3, never, of(modeTCC, gidExpire)), gidAt(5, 6, shown, "failed")}},
		"a sender asked too early":      {false, story{gidAt(1, 2, of(modeMsg, gidPrepare)), gidAt(3, 3, called(modeMsg, opAsk)), gidAt(5, never, of(modeMsg, gidExpire))}},
		"a sender who is not heard":     {false, story{gidAt(1, 2, of(modeMsg, gidPrepare)), gidAt(3, never, of(modeMsg, gidExpire)), gidAt(5, never, of(modeMsg, gidSays)), gidAt(7, 8, of(modeMsg, toldStatus), "submitted")}},
		"a message delivered early":     {false, story{gidAt(1, 2, of(modeMsg, gidPrepare)), gidAt(3, 3, called(modeMsg, opDeliver)), gidAt(5, 6, of(modeMsg, gidSubmit))}},
		"a message over, not delivered": {false, story{gidAt(1, 2, of(modeMsg, gidSubmit)), gidAt(3, 4, of(modeMsg, toldStatus), "succeed")}},
		"a saga":                        {true, slices.Concat(tried, story{gidAt(5, 6, of(modeSaga, toldStatus), "succeed")})},
		"a saga without an answer":      {false, slices.Concat(saga, story{gidAt(5, 6, of(modeSaga, toldStatus), "succeed")})},
		"a saga undone for no reason":   {false, slices.Concat(tried, story{gidAt(5, 6, of(modeSaga, toldStatus), "aborting")})},
		"a saga that is refused":        {true, slices.Concat(saga, story{gidAt(3, never, of(modeSaga, gidNo)), gidAt(5, 6, of(modeSaga, toldStatus), "failed")})},
		"a saga not compensated":        {false, slices.Concat(saga, story{gidAt(3, 3, of(modeSaga, gidHappens)), gidAt(3, never, of(modeSaga, gidNo)), gidAt(5, 6, of(modeSaga, toldStatus), "failed")})},
		"a saga compensated": {true, slices.Concat(saga, story{gidAt(3, 3, of(modeSaga, gidHappens)), gidAt(3, never, of(modeSaga, gidNo)),
			gidAt(4, 4, called(modeSaga, opCompensate)), gidAt(4, never, of(modeSaga, gidDone)), gidAt(5, 6, of(modeSaga, toldStatus), "failed")})},
		"a saga compensated beside its commit": {false, slices.Concat(tried, story{gidAt(4, 4, called(modeSaga, opCompensate)), gidAt(5, 6, of(modeSaga, toldStatus), "succeed")})},
	} {
		if got := porcupine.CheckOperations(gidModel, tt.ops); got != tt.want {
			t.Errorf("%s: it is accepted: %t, want %t", name, got, tt.want)
		}
	}
}

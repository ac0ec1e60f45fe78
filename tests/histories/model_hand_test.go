package histories

import (
	"testing"

	"github.com/anishathalye/porcupine"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// at is an operation between two moments; without an answer, until the end of time.
func at(call, ret int64, in input, out ...output) porcupine.Operation {
	op := porcupine.Operation{Input: in, Output: output{}, Call: call, Return: ret}
	if len(out) > 0 {
		op.Output = out[0]
	}
	return op
}

// endOfTime is later than any answer.
const endOfTime = int64(1) << 60

var (
	isOpen      = output{outcome: pb.Outcome_OUTCOME_UNDECIDED, reason: untold, cause: untold}
	isCommitted = output{outcome: pb.Outcome_OUTCOME_COMMITTED, reason: untold, cause: untold}
	isUndone    = output{outcome: pb.Outcome_OUTCOME_ROLLED_BACK, reason: untold, cause: untold}
	isUnknown   = output{outcome: unknownXID, reason: untold, cause: untold}
)

func undoneBy(why pb.RollbackReason, cause int) output {
	return output{outcome: pb.Outcome_OUTCOME_ROLLED_BACK, reason: int(why), cause: cause}
}

// with adds the first branch.
func (o output) with(v pb.Vote) output {
	o.branches[0] = shown{registered: true, vote: v}
	return o
}

// A yes of the model is worth nothing without its noes.
func TestTheModelOfATransaction(t *testing.T) {
	t.Parallel()
	const yes, no, gone, requested = pb.Vote_VOTE_YES, pb.Vote_VOTE_NO, pb.Vote_VOTE_WITHDRAWN, pb.RollbackReason_ROLLBACK_REASON_REQUESTED
	register, commit, told, all := input{do: doRegister}, input{do: doCommit}, input{do: toldOutcome}, input{do: toldAll}
	vote := func(v pb.Vote) input { return input{do: doVote, vote: v} }
	undo := func(n int) input { return input{do: doRollback, cause: n} }
	crash := func(in input) input { in.crashes = true; return in }
	type history []porcupine.Operation
	for name, tt := range map[string]struct {
		want bool
		ops  history
	}{
		"a commit":                   {true, history{at(1, 2, register), at(3, 4, vote(yes)), at(5, 9, commit), at(5, 9, told, isCommitted)}},
		"a commit nobody asked for":  {false, history{at(1, 2, register), at(3, 4, vote(yes)), at(5, 9, told, isCommitted)}},
		"a commit without a vote":    {false, history{at(1, 2, register), at(1, 2, input{do: toldRegistered}, isOpen), at(5, 9, commit), at(5, 9, told, isCommitted)}},
		"a branch that nobody knows": {true, history{at(1, endOfTime, register), at(5, 9, commit), at(5, 9, told, isCommitted)}},
		"an acknowledged branch is gone": {false, history{
			at(1, 2, register), at(1, 2, input{do: toldRegistered}, isOpen), at(3, 4, all, isOpen)}},
		"a commit without an answer, told later": {true, history{at(1, endOfTime, commit), at(3, 4, told, isOpen), at(5, 6, told, isCommitted)}},
		"undecided after committed":              {false, history{at(1, endOfTime, commit), at(3, 4, told, isCommitted), at(5, 6, told, isOpen)}},
		"undecided beside committed":             {true, history{at(1, endOfTime, commit), at(3, 6, told, isCommitted), at(5, 7, told, isOpen)}},
		"both outcomes": {false, history{
			at(1, endOfTime, commit), at(1, endOfTime, undo(1)), at(3, 4, told, isCommitted), at(5, 6, told, isUndone)}},
		"committed although rolled back before": {false, history{
			at(1, 2, undo(1)), at(1, 2, told, isUndone), at(3, 4, commit), at(3, 4, told, isCommitted)}},
		"the first rollback is the reason": {true, history{
			at(1, 2, undo(1)), at(1, 2, told, undoneBy(requested, 1)), at(3, 4, undo(2)), at(3, 4, told, undoneBy(requested, 1))}},
		"the reason changes": {false, history{
			at(1, 2, undo(1)), at(1, 9, undo(2)), at(1, 3, told, undoneBy(requested, 2)), at(4, 5, told, undoneBy(requested, 1))}},
		"a no":              {true, history{at(1, 2, register), at(3, 4, vote(no)), at(5, 6, told, undoneBy(pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, 0))}},
		"a no is committed": {false, history{at(1, 2, register), at(1, 2, input{do: toldRegistered}, isOpen), at(3, 4, vote(no)), at(5, 6, commit), at(5, 6, told, isCommitted)}},
		"a timeout before its time": {false, history{
			at(9, endOfTime, input{do: doExpire}), at(3, 4, told, undoneBy(pb.RollbackReason_ROLLBACK_REASON_TIMEOUT, 0))}},
		"a timeout":                   {true, history{at(2, endOfTime, input{do: doExpire}), at(3, 4, told, undoneBy(pb.RollbackReason_ROLLBACK_REASON_TIMEOUT, 0))}},
		"forgotten without a crash":   {false, history{at(3, 4, told, isUnknown)}},
		"forgotten by a crash":        {true, history{at(3, 4, crash(told), isUnknown)}},
		"forgotten after it was told": {false, history{at(1, 2, crash(told), isOpen), at(3, 4, crash(told), isUnknown)}},
		"forgotten with its branch":   {false, history{at(1, 2, crash(register)), at(1, 2, crash(input{do: toldRegistered}), isOpen), at(3, 4, crash(told), isUnknown)}},
		"an unforced vote is lost":    {true, history{at(1, 2, register), at(3, 4, vote(yes)), at(3, 4, input{do: toldVote}, isOpen), at(5, 6, crash(all), isOpen.with(0))}},
		"an unforced withdrawal is lost, and asked for": {true, history{
			at(1, 2, register), at(3, 4, vote(gone)), at(3, 4, input{do: toldVote}, isOpen), at(3, endOfTime, crash(input{do: doDoubt})), at(5, 6, crash(told), undoneBy(pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, 0))}},
		"a withdrawal is taken for a no without a crash": {false, history{
			at(1, 2, register), at(3, 4, vote(gone)), at(3, 4, input{do: toldVote}, isOpen), at(3, endOfTime, input{do: doDoubt}), at(5, 6, told, undoneBy(pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, 0))}},
		"a withdrawal that was shown is lost": {false, history{
			at(1, 2, register), at(3, 4, vote(gone)), at(5, 6, crash(all), isOpen.with(gone)), at(5, endOfTime, crash(input{do: doDoubt})), at(7, 8, crash(told), undoneBy(pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, 0))}},
		"a vote is lost without a crash": {false, history{at(1, 2, register), at(3, 4, vote(yes)), at(3, 4, input{do: toldVote}, isOpen), at(5, 6, all, isOpen.with(0))}},
		"a vote that was shown is lost": {false, history{
			at(1, 2, register), at(3, 4, vote(yes)), at(5, 6, crash(all), isOpen.with(yes)), at(7, 8, crash(all), isOpen.with(0))}},
	} {
		if got := porcupine.CheckOperations(transaction, tt.ops); got != tt.want {
			t.Errorf("%s: it is accepted: %t, want %t", name, got, tt.want)
		}
	}
}

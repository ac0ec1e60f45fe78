package histories

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// clock counts from the start of the process, and never goes back.
var clock = func() func() int64 {
	start := time.Now()
	return func() int64 { return int64(time.Since(start)) }
}()

// history is what the clients of one XID did and were told.
type history struct {
	id       string
	begun    int64 // when its begin was called
	branches [maxBranches]string
	crashes  bool

	mu  sync.Mutex
	ops []porcupine.Operation
}

// note adds one operation; who is the client.
func (h *history) note(who int, call, ret int64, in input, out output) {
	in.crashes = h.crashes
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: who, Input: in, Call: call, Output: out, Return: ret})
}

// call notes what a call may have done and what it was answered. Without an answer it
// may do it at any later time.
func (h *history) call(who int, since int64, do, told *input, out *output) {
	now := clock()
	if do != nil {
		until := now
		if out == nil {
			until = endOfTime
		}
		h.note(who, since, until, *do, output{})
	}
	if out != nil {
		h.note(who, since, now, *told, *out)
	}
}

// branchOf is the number of a branch.
func (h *history) branchOf(id string) int { return slices.Index(h.branches[:], id) }

// check asks whether one transaction could have told all of this.
func (h *history) check(limit time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(transaction, h.ops, limit)
}

// String lists the operations in the order of their beginning.
func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	ops := slices.Clone(h.ops)
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	fmt.Fprintf(&b, "transaction %s, times in ms after its begin was called:\n", h.id)
	for _, op := range ops {
		ms := func(t int64) string {
			if t == endOfTime {
				return "never"
			}
			return fmt.Sprintf("%.3f", float64(t-h.begun)/1e6)
		}
		fmt.Fprintf(&b, "  %10s to %10s  client %d %s\n", ms(op.Call), ms(op.Return), op.ClientId, describe(op.Input.(input), op.Output.(output)))
	}
	return b.String()
}

// short gives the shortest part of a history that can't be explained either: what was
// told is left out as long as the rest still contradicts itself.
func (h *history) short() *history {
	ops := slices.Clone(h.ops)
	until := time.Now().Add(5 * time.Second)
	for i := len(ops) - 1; i >= 0; i-- {
		if ops[i].Input.(input).do <= doExpire || time.Now().After(until) {
			continue // without what was done, anything contradicts itself
		}
		rest := slices.Delete(slices.Clone(ops), i, i+1)
		if porcupine.CheckOperationsTimeout(transaction, rest, time.Second/2) == porcupine.Illegal {
			ops = rest
		}
	}
	return &history{id: h.id, begun: h.begun, branches: h.branches, ops: ops}
}

// decided reads from an answer's reason and cause what the model compares.
func (h *history) decided(o pb.Outcome, why pb.RollbackReason, cause string) output {
	out := output{outcome: o, reason: untold, cause: untold}
	if o != pb.Outcome_OUTCOME_ROLLED_BACK || why == pb.RollbackReason_ROLLBACK_REASON_UNSPECIFIED {
		return out
	}
	out.reason, out.cause = int(why), 0
	switch why { //nolint:exhaustive // the others have no cause of ours
	case pb.RollbackReason_ROLLBACK_REASON_REQUESTED:
		if _, err := fmt.Sscanf(cause, "cause-%d", &out.cause); err != nil {
			out.cause = untold
		}
	case pb.RollbackReason_ROLLBACK_REASON_VOTED_NO:
		id := ""
		if _, err := fmt.Sscanf(cause, "branch %s", &id); err != nil {
			out.cause = untold
			break
		}
		out.cause = h.branchOf(id)
	}
	return out
}

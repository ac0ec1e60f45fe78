package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

func newTxShow(s Streams, r *remote) *cobra.Command {
	var asJSON bool
	var rows int
	var tx txArg
	cmd := &cobra.Command{
		Use:   "show {XID | --key KEY}",
		Short: "Show one transaction: its branches, and where settling it stands",
		Long: `Shows one transaction: its branches, and where settling it stands. Where a
rollback needs a person, it also shows the rows that it can't restore: as they
were before the transaction, as the transaction left them, and as they are now.
'handfast tx resolve' says what is to become of them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkRows(rows); err != nil {
				return err
			}
			return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
				resp, err := c.Show(ctx, &handfastv1.GetRequest{Xid: tx.xid, Key: tx.key})
				if err != nil {
					return err
				}
				t := resp.GetTransaction()
				diff := contradictions(ctx, s, c, t, rows)
				if asJSON {
					return printShown(s.Out, t, diff)
				}
				if err := showTransaction(s.Out, t, time.Now()); err != nil {
					return err
				}
				return showContradictions(s.Out, t.GetXid(), diff)
			})
		},
	}
	tx.args(cmd)
	rowsFlag(cmd, &rows)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// showCalls prints what the coordinator calls for branches that have a plan.
func showCalls(w io.Writer, t *handfastv1.Transaction, now time.Time) error {
	var rows [][]string
	owed := make(map[string]*handfastv1.Settlement)
	for _, x := range t.GetSettlements() {
		if x.GetBranchId() != "" {
			owed[x.GetBranchId()] = x
		}
	}
	for _, b := range t.GetBranches() {
		name := b.GetName()
		if name == "" {
			name = b.GetBranchId()
		}
		row := func(op string, a *handfastv1.Action, p *handfastv1.Progress, answer string) {
			target := a.GetUrl() + a.GetGrpc() + a.GetHandler()
			if a.GetHandler() != "" {
				target += " of " + cmp.Or(a.GetHandlerGroup(), a.GetHandlerResource())
			}
			if a.GetDialect() == handfastv1.Dialect_DIALECT_DTM {
				target += " (as DTM)"
			}
			next := "-"
			if p.GetNextAttemptTime() != nil {
				next = age(now, p.GetNextAttemptTime())
			}
			rows = append(rows, []string{clean(name), op, clean(target), attempts(p.GetAttempts()),
				stamp(p.GetLastAttemptTime()), next, attention(p.GetAttention()), orDash(answer)})
		}
		if f := b.GetPlan().GetForward(); f != nil {
			answer := b.GetForward().GetLastError()
			switch b.GetVote() { //nolint:exhaustive // the others are no answer
			case handfastv1.Vote_VOTE_YES:
				answer = "done"
			case handfastv1.Vote_VOTE_NO:
				answer = "failed: " + b.GetVoteReason()
			default:
			}
			row("forward", f, b.GetForward(), answer)
		}
		x := owed[b.GetBranchId()]
		if x == nil {
			continue
		}
		action, op := b.GetPlan().GetCommit(), "commit"
		if x.GetOp() == handfastv1.Op_OP_ROLLBACK {
			action, op = b.GetPlan().GetRollback(), "rollback"
		}
		answer := x.GetLastError()
		switch {
		case x.GetAbandoned():
			answer = "given up"
		case x.GetDone():
			answer = "done"
		}
		row(op, action, &handfastv1.Progress{
			Attempts: x.GetAttempts(), LastAttemptTime: x.GetLastAttemptTime(), NextAttemptTime: x.GetNextAttemptTime(), Attention: x.GetAttention(),
		}, answer)
	}
	if len(rows) == 0 {
		return nil
	}
	return section(w, []string{"BRANCH", "ACTION", "CALLS", "ATTEMPTS", "LAST TRY", "NEXT TRY", "ATTENTION", "LAST ANSWER"}, rows)
}

func showTransaction(w io.Writer, t *handfastv1.Transaction, now time.Time) error {
	facts := [][]string{
		{"Name", orDash(t.GetName())},
		{"Phase", word(t.GetPhase())},
		{"Outcome", word(t.GetOutcome())},
	}
	if t.GetOutcome() == handfastv1.Outcome_OUTCOME_ROLLED_BACK {
		facts = append(facts, []string{"Reason", word(t.GetRollbackReason())}, []string{"Cause", orDash(t.GetRollbackCause())})
	}
	facts = append(facts,
		[]string{"Begun", stamp(t.GetBeginTime()) + " (" + age(now, t.GetBeginTime()) + ")"},
		[]string{"Deadline", stamp(t.GetDeadline())},
		[]string{"Decided", stamp(t.GetDecisionTime())},
		[]string{"Finished", stamp(t.GetFinishTime())})
	if t.GetKey() != "" {
		facts = append(facts, []string{"Key", clean(t.GetKey())})
	}
	if t.GetParentXid() != "" {
		facts = append(facts, []string{"Parent", clean(t.GetParentXid())})
	}
	if t.GetAttention() {
		facts = append(facts, []string{"Attention", "a person should look: see LAST ERROR or LAST ANSWER below"})
	}
	if err := table(w, []string{"XID", clean(t.GetXid())}, facts); err != nil {
		return err
	}

	if len(t.GetBranches()) > 0 {
		rows := make([][]string, 0, len(t.GetBranches()))
		for _, b := range t.GetBranches() {
			rows = append(rows, []string{clean(b.GetBranchId()), orDash(b.GetName()), orDash(clean(b.GetResourceId())), word(b.GetMode()),
				word(b.GetVote()), stamp(b.GetRegisterTime()), orDash(b.GetVoteReason())})
		}
		if err := section(w, []string{"BRANCH", "NAME", "RESOURCE", "MODE", "VOTE", "REGISTERED", "WHY NO"}, rows); err != nil {
			return err
		}
	}
	if err := showCalls(w, t, now); err != nil {
		return err
	}
	rows := make([][]string, 0, len(t.GetSettlements()))
	for _, x := range t.GetSettlements() {
		if x.GetBranchId() != "" {
			continue // a call
		}
		next := "-"
		if !x.GetDone() {
			next = age(now, x.GetNextAttemptTime())
		}
		rows = append(rows, []string{clean(x.GetResourceId()), yesNo(x.GetDone()), strconv.FormatUint(uint64(x.GetAttempts()), 10),
			stamp(x.GetLastAttemptTime()), next, attention(x.GetAttention()), orDash(x.GetLastError())})
	}
	if len(rows) == 0 {
		return nil
	}
	return section(w, []string{"RESOURCE", "SETTLED", "ATTEMPTS", "LAST TRY", "NEXT TRY", "ATTENTION", "LAST ERROR"}, rows)
}

// section is a table after an empty line.
func section(w io.Writer, header []string, rows [][]string) error {
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return table(w, header, rows)
}

func newTxWatch(s Streams, r *remote) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "watch [XID]",
		Short: "Print changes as they happen; with an XID, until it is finished",
		Args: func(cmd *cobra.Command, a []string) error {
			if len(a) > 1 {
				return usagef("%s takes at most one XID, got %d arguments", cmd.CommandPath(), len(a))
			}
			if len(a) == 0 {
				return nil
			}
			return oneXID(cmd, a)
		},
		RunE: func(cmd *cobra.Command, a []string) error {
			req := &handfastv1.WatchRequest{}
			if len(a) == 1 {
				req.Xid = a[0]
			}
			err := r.dial(cmd.Context(), true, func(ctx context.Context, c handfastv1.AdminClient) error {
				return watch(ctx, s, c, req, asJSON)
			})
			if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// watch prints one line per event. The stream is opened before the state is
// asked for, so that nothing happens unseen in between.
func watch(ctx context.Context, s Streams, c handfastv1.AdminClient, req *handfastv1.WatchRequest, asJSON bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Watch(ctx, req)
	if err != nil {
		return err
	}
	if _, err := stream.Header(); err != nil {
		return err
	}
	if req.GetXid() != "" {
		resp, err := c.Show(ctx, &handfastv1.GetRequest{Xid: req.GetXid()})
		if err != nil {
			return err
		}
		if err := printEvent(s, &handfastv1.WatchEvent{Transaction: resp.GetTransaction()}, asJSON); err != nil {
			return err
		}
		if resp.GetTransaction().GetPhase() == handfastv1.Phase_PHASE_FINISHED {
			return nil
		}
	}
	for {
		ev, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the coordinator ended the watch: it is going away")
		}
		if err != nil {
			return err
		}
		if err := printEvent(s, ev, asJSON); err != nil {
			return err
		}
		if req.GetXid() != "" && ev.GetTransaction().GetPhase() == handfastv1.Phase_PHASE_FINISHED {
			return nil
		}
	}
}

func printEvent(s Streams, ev *handfastv1.WatchEvent, asJSON bool) error {
	if asJSON {
		return printProto(s.Out, ev, false)
	}
	if ev.GetMissed() > 0 {
		s.say("%d changes came too fast to be shown\n", ev.GetMissed())
	}
	t := ev.GetTransaction()
	when := "now                     "
	if ev.GetTime() != nil {
		when = stamp(ev.GetTime())
	}
	done := 0
	for _, x := range t.GetSettlements() {
		if x.GetDone() {
			done++
		}
	}
	_, err := fmt.Fprintf(s.Out, "%s  %-*s  %-10s  %-11s  branches %d, settled %d of %d  %s  %s\n", when, xid.TextLen, clean(t.GetXid()),
		word(t.GetPhase()), word(t.GetOutcome()), len(t.GetBranches()), done, len(t.GetSettlements()), attention(t.GetAttention()), orDash(t.GetName()))
	return err
}

// attempts counts those since the coordinator started; they are not kept with what is
// finished.
func attempts(n uint32) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(uint64(n), 10)
}

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

func newTx(s Streams) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "tx",
		Short: "Look at global transactions of a coordinator, and act on one",
	})
	r := newRemote(s, cmd)
	cmd.AddCommand(newTxList(s, r), newTxShow(s, r), newTxCommit(s, r), newTxRollback(s, r), newTxResolve(s, r), newTxRetry(s, r), newTxAbandon(s, r), newTxWatch(s, r))
	return cmd
}

// oneXID checks that the only argument is an XID before anything is sent.
func oneXID(cmd *cobra.Command, a []string) error {
	if len(a) != 1 {
		return usagef("%s takes one XID, got %d arguments", cmd.CommandPath(), len(a))
	}
	if _, err := xid.Parse(a[0]); err != nil {
		return usagef("argument XID: %v", err)
	}
	return nil
}

// txArg is the transaction that a command is about.
type txArg struct{ xid, key string }

// args adds the flag to cmd, and checks what cmd is given before anything is sent.
func (t *txArg) args(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.key, "key", "", "instead of an XID: the `key` that it was begun under, such as the gid of DTM's API")
	cmd.Args = func(cmd *cobra.Command, a []string) error {
		if !cmd.Flags().Changed("key") {
			if err := oneXID(cmd, a); err != nil {
				return err
			}
			t.xid = a[0]
			return nil
		}
		switch {
		case len(a) > 0:
			return usagef("%s takes an XID or --key, not both", cmd.CommandPath())
		case t.key == "":
			return usagef("--key: is empty")
		}
		return nil
	}
}

// find gives the XID.
func (t *txArg) find(ctx context.Context, c handfastv1.AdminClient) (string, error) {
	if t.xid != "" {
		return t.xid, nil
	}
	resp, err := c.Show(ctx, &handfastv1.GetRequest{Key: t.key})
	return resp.GetTransaction().GetXid(), err
}

func newTxAbandon(s Streams, r *remote) *cobra.Command {
	var operator, cause string
	var tx txArg
	cmd := &cobra.Command{
		Use:   "abandon {XID | --key KEY}",
		Short: "Give up the calls that a transaction still owes",
		Long: `Gives up the calls that a transaction still owes to URLs, gRPC methods and
handlers: they are not made any more, and what they would have done is not done.
One that is undecided is rolled back, without its compensations. Databases are
settled all the same. For calls that can never succeed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			op, err := operatorName(operator)
			if err != nil {
				return err
			}
			if len(cause) > 1024 {
				return usagef("--cause: %d bytes long, at most 1024 fit", len(cause))
			}
			return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
				id, err := tx.find(ctx, c)
				if err != nil {
					return err
				}
				resp, err := c.Abandon(ctx, &handfastv1.AbandonRequest{Xid: id, Operator: op, Cause: cause})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(s.Out, "%s %s: %d calls are given up\n", clean(id), word(resp.GetOutcome()), resp.GetCalls())
				return err
			})
		},
	}
	tx.args(cmd)
	operatorFlag(cmd, &operator)
	cmd.Flags().StringVar(&cause, "cause", "", "why, in words")
	return cmd
}

func newTxCommit(s Streams, r *remote) *cobra.Command {
	var operator string
	cmd := &cobra.Command{
		Use:   "commit XID",
		Short: "Ask for the decision to commit; it never skips a vote",
		Long: `Asks for the decision to commit, as the service that began the transaction
would. A branch that has not voted is still waited for, until the deadline.
Fails when the decision is, or becomes, to roll back.`,
		Args: oneXID,
		RunE: func(cmd *cobra.Command, a []string) error {
			op, err := operatorName(operator)
			if err != nil {
				return err
			}
			return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
				resp, err := c.Commit(ctx, &handfastv1.AdminCommitRequest{Xid: a[0], Operator: op})
				if status.Code(err) == codes.DeadlineExceeded {
					return fmt.Errorf("asked to commit, not decided yet: votes may be missing; see 'handfast tx show %s'", a[0])
				}
				if err != nil {
					return err
				}
				if resp.GetOutcome() != handfastv1.Outcome_OUTCOME_COMMITTED {
					return fmt.Errorf("the decision is %s (%s: %s)", word(resp.GetOutcome()), word(resp.GetRollbackReason()), orDash(resp.GetRollbackCause()))
				}
				_, err = fmt.Fprintln(s.Out, a[0], word(resp.GetOutcome()))
				return err
			})
		},
	}
	operatorFlag(cmd, &operator)
	return cmd
}

func newTxRollback(s Streams, r *remote) *cobra.Command {
	var operator, cause string
	var dryRun, asJSON bool
	var rows int
	cmd := &cobra.Command{
		Use:   "rollback XID",
		Short: "Ask for the decision to roll back; fails when it is committed",
		Args:  oneXID,
		RunE: func(cmd *cobra.Command, a []string) error {
			if dryRun {
				return dryRollback(cmd.Context(), s, r, a[0], rows, asJSON)
			}
			for _, name := range []string{"json", "rows"} {
				if cmd.Flags().Changed(name) {
					return usagef("--%s: only goes with --dry-run", name)
				}
			}
			op, err := operatorName(operator)
			if err != nil {
				return err
			}
			if len(cause) > 1024 {
				return usagef("--cause: %d bytes long, at most 1024 fit", len(cause))
			}
			return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
				resp, err := c.Rollback(ctx, &handfastv1.AdminRollbackRequest{Xid: a[0], Operator: op, Cause: cause})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(s.Out, a[0], word(resp.GetOutcome()))
				return err
			})
		},
	}
	operatorFlag(cmd, &operator)
	cmd.Flags().StringVar(&cause, "cause", "", "why, in words; services see it in their error")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "decide nothing; print what would be restored, as far as it is committed locally")
	rowsFlag(cmd, &rows)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newTxRetry(s Streams, r *remote) *cobra.Command {
	var tx txArg
	cmd := &cobra.Command{
		Use:   "retry {XID | --key KEY}",
		Short: "Try to settle now where the next try would be later",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
				id, err := tx.find(ctx, c)
				if err != nil {
					return err
				}
				resp, err := c.RetryNow(ctx, &handfastv1.RetryNowRequest{Xid: id})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(s.Out, "%s: %d resources are tried now\n", clean(id), resp.GetResources())
				return err
			})
		},
	}
	tx.args(cmd)
	return cmd
}

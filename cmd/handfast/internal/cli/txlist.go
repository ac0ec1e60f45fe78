package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handfast/handfast/cmd/handfast/internal/config"
	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

type listFlags struct {
	phases   []string
	outcome  string
	resource string
	name     string
	attn     bool
	after    string
	before   string
	limit    int
	page     string
	all      bool
	asJSON   bool
}

func newTxList(s Streams, r *remote) *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List transactions, newest first",
		Example: `  handfast tx list --phase settling --attention
  handfast tx list --since 10m --outcome rolled-back --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request(time.Now())
			if err != nil {
				return err
			}
			return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
				return list(ctx, s, c, req, f)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&f.phases, "phase", nil, "only these `phases`: active, collecting, settling, finished")
	fs.StringVar(&f.outcome, "outcome", "", "only this `outcome`: undecided, committed, rolled-back")
	fs.StringVar(&f.resource, "resource", "", "only with a branch in the database of this `UUID`")
	fs.StringVar(&f.name, "name", "", "only names that begin with this `prefix`")
	fs.BoolVar(&f.attn, "attention", false, "only those that a person should look at")
	fs.StringVar(&f.after, "since", "", "only begun since: a `time` such as 2026-01-31T08:00:00Z, or so long ago: 10m, 2d")
	fs.StringVar(&f.before, "until", "", "only begun before: a `time`, or so long ago")
	fs.IntVar(&f.limit, "limit", 50, "how many on a page, at most 1000")
	fs.StringVar(&f.page, "page", "", "the `token` that the page before ended with")
	fs.BoolVar(&f.all, "all", false, "every page")
	jsonFlag(cmd, &f.asJSON)
	return cmd
}

func (f *listFlags) request(now time.Time) (*handfastv1.ListRequest, error) {
	req := &handfastv1.ListRequest{
		ResourceId: f.resource,
		NamePrefix: f.name,
		Attention:  f.attn,
		PageSize:   int32(f.limit),
		PageToken:  f.page,
	}
	if f.limit < 1 || f.limit > 1000 {
		return nil, usagef("--limit: %d is outside of 1 to 1000", f.limit)
	}
	for _, p := range f.phases {
		n, err := parseWord("--phase", p, handfastv1.Phase(0))
		if err != nil {
			return nil, err
		}
		req.Phases = append(req.Phases, handfastv1.Phase(n))
	}
	if f.outcome != "" {
		n, err := parseWord("--outcome", f.outcome, handfastv1.Outcome(0))
		if err != nil {
			return nil, err
		}
		req.Outcome = handfastv1.Outcome(n)
	}
	if f.resource != "" {
		if _, err := xid.ParseResourceID(f.resource); err != nil {
			return nil, usagef("--resource: %v", err)
		}
	}
	if len(f.name) > 256 {
		return nil, usagef("--name: %d bytes long, names have at most 256", len(f.name))
	}
	var err error
	if req.BegunAfter, err = moment("--since", f.after, now); err != nil {
		return nil, err
	}
	req.BegunBefore, err = moment("--until", f.before, now)
	return req, err
}

// moment reads a time, or a duration before now. Empty gives nil.
func moment(flag, s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // no time is a valid answer, and what the request wants then
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return timestamppb.New(t), nil
	}
	d, err := config.ParseDuration(s)
	if err != nil || d < 0 {
		return nil, usagef("%s: %q is neither a time such as 2026-01-31T08:00:00Z nor a duration such as 10m", flag, s)
	}
	return timestamppb.New(now.Add(-d)), nil
}

// list prints one page, or all of them. With --json and --all the pages are
// joined into one answer.
func list(ctx context.Context, s Streams, c handfastv1.AdminClient, req *handfastv1.ListRequest, f listFlags) error {
	resp, err := c.List(ctx, req)
	if err != nil {
		return err
	}
	for f.all && resp.GetNextPageToken() != "" {
		req.PageToken = resp.GetNextPageToken()
		next, err := c.List(ctx, req)
		if err != nil {
			return err
		}
		if next.GetNextPageToken() == req.GetPageToken() {
			return fmt.Errorf("the coordinator gave the page token %q twice", req.GetPageToken())
		}
		resp.Transactions = append(resp.Transactions, next.GetTransactions()...)
		resp.NextPageToken = next.GetNextPageToken()
	}
	if f.asJSON {
		return printProto(s.Out, resp, true)
	}
	if len(resp.GetTransactions()) == 0 {
		s.say("no transactions match\n")
		return nil
	}
	now := time.Now()
	rows := make([][]string, 0, len(resp.GetTransactions()))
	for _, t := range resp.GetTransactions() {
		rows = append(rows, []string{clean(t.GetXid()), word(t.GetPhase()), word(t.GetOutcome()),
			strconv.Itoa(len(t.GetBranches())), age(now, t.GetBeginTime()), attention(t.GetAttention()), orDash(t.GetName())})
	}
	if err := table(s.Out, []string{"XID", "PHASE", "OUTCOME", "BRANCHES", "AGE", "ATTENTION", "NAME"}, rows); err != nil {
		return err
	}
	if resp.GetNextPageToken() != "" {
		s.say("more: --page %s\n", clean(resp.GetNextPageToken()))
	}
	return nil
}

func attention(b bool) string {
	if b {
		return "LOOK"
	}
	return "-"
}

package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

func newStatus(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Describe a coordinator: its store, how busy it is, who is attached",
		Args:  noArgs,
	}
	r := newRemote(s, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
			resp, err := c.Status(ctx, &handfastv1.StatusRequest{})
			if err != nil {
				return err
			}
			if asJSON {
				return printProto(s.Out, resp, true)
			}
			return showStatus(s, resp, time.Now())
		})
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func showStatus(s Streams, st *handfastv1.StatusResponse, now time.Time) error {
	facts := [][]string{
		{"Store", clean(st.GetStoreId())},
		{"Incarnation", strconv.FormatUint(uint64(st.GetIncarnation()), 10)},
		{"Open transactions", strconv.FormatUint(st.GetOpenTransactions(), 10)},
	}
	if limit := st.GetHeldBytesLimit(); limit > 0 { // an older coordinator does not say
		facts = append(facts, []string{"Payload memory", fmt.Sprintf("%s of %s", size(st.GetHeldBytes()), size(limit))})
	}
	if st.GetQuarantined() {
		facts = append(facts, []string{"QUARANTINE", clean(st.GetQuarantineReason()) + "; see 'handfast adopt --help'"})
	}
	if err := table(s.Out, []string{"Version", orDash(st.GetVersion())}, facts); err != nil {
		return err
	}
	var rows [][]string
	for _, c := range st.GetClients() {
		if len(c.GetResources()) == 0 {
			rows = append(rows, []string{orDash(c.GetName()), age(now, c.GetSince()), "-", "-"})
		}
		for _, res := range c.GetResources() {
			rows = append(rows, []string{orDash(c.GetName()), age(now, c.GetSince()), clean(res.GetResourceId()), orDash(res.GetName())})
		}
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(s.Out, "\nno client is attached")
		return err
	}
	return section(s.Out, []string{"CLIENT", "SINCE", "RESOURCE", "DATABASE"}, rows)
}

func newAdopt(s Streams) *cobra.Command {
	var operator string
	var yes bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "End the quarantine of a restored store",
		Long: `A store that was restored from a copy may have forgotten decisions that others
were told. Until it is adopted, the transactions of its earlier lives can be
looked at but not decided. Adopting says: this copy is the truth from now on.
Undecided transactions of its past are then decided here again, whatever their
outcome was before. Look at 'handfast tx list' and, in each database, at
'handfast pg pending' first.`,
		Args: noArgs,
	}
	r := newRemote(s, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		op, err := operatorName(operator)
		if err != nil {
			return err
		}
		if !yes {
			return usagef("adopting cannot be taken back: read 'handfast adopt --help', then say --yes")
		}
		return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
			if _, err := c.Adopt(ctx, &handfastv1.AdoptRequest{Operator: op}); err != nil {
				return err
			}
			_, err := fmt.Fprintln(s.Out, "adopted by", op)
			return err
		})
	}
	operatorFlag(cmd, &operator)
	cmd.Flags().BoolVar(&yes, "yes", false, "yes, this copy is the truth from now on")
	return cmd
}

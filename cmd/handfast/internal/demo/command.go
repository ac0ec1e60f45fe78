package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// errNotHeld: a scenario did not hold; everything was printed already.
var errNotHeld = errors.New("not every scenario held")

type flags struct {
	scenario string
	dsn      string
	json     bool
	keep     bool
}

// Command is "handfast demo". getenv reads the environment; usage makes an
// error that the caller reports as a wrong call.
func Command(out io.Writer, getenv func(string) string, usage func(error) error) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Every mode with three services, three databases, and processes killed in the middle",
		Long: `Starts a coordinator and three services as processes, with three databases, and
plays scenarios, each judged by the rows in the databases when all is quiet:

` + storyLines() + `
Exits with 0 only if no scenario failed. Those with XA are skipped where the server
that --dsn names has no places for prepared transactions. Nothing is left behind.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(fmt.Errorf("demo takes no arguments, got %q; --scenario names one", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := choose(f.scenario)
			if err != nil {
				return usage(err)
			}
			if f.dsn == "" {
				f.dsn = getenv("DATABASE_URL")
			}
			if err := checkDSN(f.dsn); err != nil {
				return usage(err)
			}
			return run(cmd.Context(), out, f, chosen)
		},
	}
	cmd.Flags().StringVar(&f.scenario, "scenario", "", "play only the scenario of this `name`, or all of a family, such as tcc")
	cmd.Flags().StringVar(&f.dsn, "dsn", "", "use the server at this `URL` (DATABASE_URL), as a role that may create databases and set session_replication_role")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the results as JSON")
	cmd.Flags().BoolVar(&f.keep, "keep", false, "at the end keep everything running until Ctrl-C, to look around")
	return cmd
}

func choose(name string) ([]scenario, error) {
	if name == "" {
		return scenarios(), nil
	}
	var chosen []scenario
	for _, s := range scenarios() {
		if s.name == name || s.family == name {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("--scenario: there is no %q; there are %s", name, strings.Join(scenarioNames(), ", "))
	}
	return chosen, nil
}

// result is what is told of one scenario.
type result struct {
	Scenario string   `json:"scenario"`
	Held     bool     `json:"held"`
	XID      string   `json:"xid,omitempty"`
	Outcome  string   `json:"outcome,omitempty"`
	Before   []string `json:"before"`
	After    []string `json:"after"`
	Events   []string `json:"events"`
	Problem  string   `json:"problem,omitempty"`
	Skipped  string   `json:"skipped,omitempty"` // why it could not be played
}

func run(ctx context.Context, out io.Writer, f flags, chosen []scenario) (err error) {
	p := &printer{out: out, quiet: f.json}
	p.say("Starting Postgres, a coordinator and three services ...")
	c, err := start(ctx, f.dsn)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() {
		if f.keep && err == nil {
			p.keep(c)
			<-ctx.Done()
		}
		err = errors.Join(err, c.stop())
	}()
	p.say("  %s", c.describe())
	var results []result
	for _, s := range chosen {
		r := c.play(ctx, p, s)
		if ctx.Err() != nil {
			return fmt.Errorf("demo: interrupted: %w", ctx.Err())
		}
		results = append(results, r)
	}
	failed, err := report(out, f.json, results)
	if failed {
		for _, log := range c.logs() {
			_, _ = fmt.Fprint(os.Stderr, log)
		}
		err = errors.Join(errNotHeld, err)
	}
	return err
}

// report prints the results as a whole, and tells whether one did not hold. One that
// was skipped has not failed.
func report(out io.Writer, asJSON bool, results []result) (failed bool, err error) {
	held, skipped := 0, 0
	for _, r := range results {
		switch {
		case r.Skipped != "":
			skipped++
		case r.Held:
			held++
		}
	}
	failed = held+skipped != len(results)
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return failed, enc.Encode(struct {
			Scenarios []result `json:"scenarios"`
			Held      int      `json:"held"`
			Skipped   int      `json:"skipped"`
			Total     int      `json:"total"`
		}{results, held, skipped, len(results)})
	}
	also := ""
	if skipped > 0 {
		also = fmt.Sprintf(", %d skipped", skipped)
	}
	_, err = fmt.Fprintf(out, "\ndemo: %d of %d scenarios held%s\n", held, len(results), also)
	return failed, err
}

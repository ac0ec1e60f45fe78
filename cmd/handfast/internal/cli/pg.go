package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/handfast/handfast/cmd/handfast/internal/config"
	"github.com/handfast/handfast/undolog"
)

// database is how a command reaches a Postgres database.
type database struct {
	streams Streams
	dsn     string
	timeout string
}

func newPg(s Streams) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "pg",
		Short: "Prepare a Postgres database for global transactions, and look into it",
	})
	d := &database{streams: s}
	cmd.PersistentFlags().StringVar(&d.dsn, "dsn", "", "connection `URL` or key=value string of the database (DATABASE_URL)")
	cmd.PersistentFlags().StringVar(&d.timeout, "timeout", "10s", "how long connecting may take")
	cmd.AddCommand(newPgInstall(s, d), newPgProtect(s, d), newPgUnprotect(s, d), newPgGC(s, d), newPgDoctor(s, d), newPgPending(s, d))
	return cmd
}

// connect opens a connection, hands it to fn and closes it.
func (d *database) connect(ctx context.Context, fn func(context.Context, *pgx.Conn) error) error {
	timeout, err := config.ParseDuration(d.timeout)
	if err != nil || timeout <= 0 {
		return usagef("--timeout: %q is not a duration such as 10s", d.timeout)
	}
	source := "--dsn"
	if d.dsn == "" {
		d.dsn, source = d.streams.getenv("DATABASE_URL"), "DATABASE_URL"
	}
	if d.dsn == "" {
		return usagef("no database named: set --dsn or DATABASE_URL to something like postgres://user@host/database")
	}
	cfg, err := pgx.ParseConfig(d.dsn)
	if err != nil {
		return usagef("%s: %w", source, err) // pgx leaves the password out
	}
	cfg.ConnectTimeout = timeout
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	err = fn(ctx, conn)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(err, conn.Close(closing))
}

// installed is connect for what needs the schema: without it, the error is
// what to do, not the first object that is missing.
func (d *database) installed(ctx context.Context, fn func(context.Context, *pgx.Conn) error) error {
	return d.connect(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := undolog.Inspect(ctx, conn); err != nil {
			return err
		}
		return fn(ctx, conn)
	})
}

func newPgInstall(s Streams, d *database) *cobra.Command {
	var printOnly bool
	var roles []string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Create or upgrade the schema handfast",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if slices.Contains(roles, "") {
				return usagef("--grant: a role without a name")
			}
			if printOnly {
				_, err := fmt.Fprintln(s.Out, strings.TrimSpace(undolog.InstallSQL()))
				return err
			}
			return d.connect(cmd.Context(), func(ctx context.Context, conn *pgx.Conn) error {
				if err := undolog.Install(ctx, conn); err != nil {
					return err
				}
				info, err := undolog.Inspect(ctx, conn)
				if err != nil {
					return err
				}
				for _, role := range roles {
					if err := undolog.Grant(ctx, conn, role); err != nil {
						return err
					}
				}
				_, err = fmt.Fprintf(s.Out, "database %s: schema handfast has version %d, the resource is %s\n",
					info.Database, info.SchemaVersion, info.Resource)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&printOnly, "print", false, "print the SQL instead of running it; needs no database")
	cmd.Flags().StringSliceVar(&roles, "grant", nil, "let these `roles` of services settle; the owner of the schema may anyway")
	return cmd
}

// tableNames refuses what cannot be the name of a table before connecting.
func tableNames(cmd *cobra.Command, a []string) error {
	if len(a) == 0 {
		return usagef("%s takes names of tables, such as public.stock", cmd.CommandPath())
	}
	for i, name := range a {
		if strings.TrimSpace(name) == "" || strings.ContainsRune(name, 0) {
			return usagef("argument %d: %q is not the name of a table, such as public.stock", i+1, name)
		}
	}
	return nil
}

// patterns is tableNames, where no name is fine too.
func patterns(cmd *cobra.Command, a []string) error {
	if len(a) == 0 {
		return nil
	}
	return tableNames(cmd, a)
}

func newPgProtect(s Streams, d *database) *cobra.Command {
	var printOnly, committed bool
	var guard string
	cmd := &cobra.Command{
		Use:   "protect [TABLE | SCHEMA.TABLE | SCHEMA | PATTERN]...",
		Short: "Put capture and guard on tables; without names, renew those that were altered",
		Long: `Puts capture and guard on tables, in one transaction; doing it again changes nothing.
A schema stands for each of its tables that has a primary key, if no table has its name.
A pattern has * and ? in it, such as "public.*" or "stock_2*". Tables that inherit from
one are protected with it, and tables that a foreign key joins to one get a guard.
Without names it renews the tables that were altered since: until then global
transactions are refused there. "handfast pg unprotect" undoes it.`,
		Example: `  handfast pg protect public.stock public.account
  handfast pg protect public
  handfast pg protect 'public.stock_*'
  handfast pg protect --print public.stock | psql "$DATABASE_URL"`,
		Args: patterns,
		RunE: func(cmd *cobra.Command, a []string) error {
			var opts []undolog.ProtectOption
			switch guard {
			case "":
			case "enforce", "off":
				opts = append(opts, undolog.WithGuard(guard == "enforce"))
			default:
				return usagef("--guard: %q, want enforce or off", guard)
			}
			if committed {
				opts = append(opts, undolog.WithCommittedView())
			}
			return d.installed(cmd.Context(), func(ctx context.Context, conn *pgx.Conn) error {
				if printOnly {
					sql, err := undolog.ProtectSQL(ctx, conn, a, opts...)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintln(s.Out, strings.TrimSpace(sql))
					return err
				}
				tables, err := undolog.ProtectTables(ctx, conn, a, opts...)
				if err != nil {
					return err
				}
				rows := make([][]string, 0, len(tables))
				for _, t := range tables {
					rows = append(rows, []string{clean(t.Name), clean(strings.Join(t.Keys, ", "))})
				}
				return table(s.Out, []string{"PROTECTED", "KEY"}, rows)
			})
		},
	}
	cmd.Flags().BoolVar(&printOnly, "print", false, "print the SQL instead of running it")
	cmd.Flags().StringVar(&guard, "guard", "", "`enforce` or off: whether sessions without a global transaction are kept from undecided rows; as it was, and at first on")
	cmd.Flags().BoolVar(&committed, "committed-view", false, "also make a view TABLE_committed of the rows without what is undecided")
	return cmd
}

func newPgUnprotect(s Streams, d *database) *cobra.Command {
	return &cobra.Command{
		Use:   "unprotect {TABLE | SCHEMA.TABLE | SCHEMA | PATTERN}...",
		Short: "Take capture and guard off tables; refused while rows of them are undecided",
		Args:  tableNames,
		RunE: func(cmd *cobra.Command, a []string) error {
			return d.installed(cmd.Context(), func(ctx context.Context, conn *pgx.Conn) error {
				if err := undolog.Unprotect(ctx, conn, a...); err != nil {
					return err
				}
				_, err := fmt.Fprintln(s.Out, "no longer protected:", clean(strings.Join(a, ", ")))
				return err
			})
		},
	}
}

func newPgGC(s Streams, d *database) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Drop fence rows of settled transactions that are too old to be joined",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 10_000_000 {
				return usagef("--limit: %d is outside of 1 to 10000000", limit)
			}
			return d.installed(cmd.Context(), func(ctx context.Context, conn *pgx.Conn) error {
				n, err := undolog.GC(ctx, conn, limit)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(s.Out, "%d fence rows dropped\n", n)
				return err
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 100_000, "how many at most")
	return cmd
}

func newPgDoctor(s Streams, d *database) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what keeps the promises from holding in this database, and what mends it",
		Long: `Says what keeps the promises from holding in this database, and what mends it.
Exit code 1 when there is an error among the findings; warnings alone give 0.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return d.connect(cmd.Context(), func(ctx context.Context, conn *pgx.Conn) error {
				findings, err := undolog.Doctor(ctx, conn)
				if err != nil {
					return err
				}
				if err := showFindings(s, findings, asJSON); err != nil {
					return err
				}
				for _, f := range findings {
					if f.Severity == undolog.SeverityError {
						return &exitError{ExitFailure}
					}
				}
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func showFindings(s Streams, findings []undolog.Finding, asJSON bool) error {
	if asJSON {
		return printJSON(s.Out, struct {
			Findings []undolog.Finding `json:"findings"`
		}{append([]undolog.Finding{}, findings...)})
	}
	if len(findings) == 0 {
		_, err := fmt.Fprintln(s.Out, "healthy")
		return err
	}
	for _, f := range findings {
		if _, err := fmt.Fprintf(s.Out, "%s: %s: %s\n    %s\n", f.Severity, clean(f.Object), clean(f.Problem), clean(f.Fix)); err != nil {
			return err
		}
	}
	return nil
}

// preparedRow is a prepared transaction as "pg pending --json" prints it.
type preparedRow struct {
	GID    string    `json:"gid"`
	XID    string    `json:"xid"` // empty: nobody can be asked
	Branch string    `json:"branch"`
	Since  time.Time `json:"since"`
	Owner  string    `json:"owner"`
	Advice string    `json:"advice"`
}

// pendingRow is a transaction as "pg pending --json" prints it.
type pendingRow struct {
	XID      string    `json:"xid"`
	Since    time.Time `json:"since"`
	Branches []string  `json:"branches"`
	Rows     int64     `json:"rows"`
	Tables   []string  `json:"tables"`
}

func newPgPending(s Streams, d *database) *cobra.Command {
	var asJSON bool
	var older string
	cmd := &cobra.Command{
		Use:   "pending",
		Short: "List the transactions that are not settled in this database, oldest first, at most 1000",
		Long: `Lists the transactions that are not settled in this database, oldest first, at most
1000: those with undecided rows (AT), and those that are prepared (XA). They are no fault
by themselves. Attached services settle what the coordinator has decided; what lasts is
undecided, or the coordinator does not know it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			age, err := config.ParseDuration(older)
			if err != nil || age < 0 {
				return usagef("--older-than: %q is not a duration such as 30s", older)
			}
			return d.installed(cmd.Context(), func(ctx context.Context, conn *pgx.Conn) error {
				pending, err := undolog.Pending(ctx, conn, age)
				if err != nil {
					return err
				}
				prepared, err := undolog.PreparedBranches(ctx, conn, age)
				if err != nil {
					return err
				}
				return showPending(s, pending, preparedRows(prepared), asJSON)
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().StringVar(&older, "older-than", "0s", "only those begun longer ago")
	return cmd
}

// preparedRows says what to do about each. Whether it is to be kept or not only
// its coordinator can tell, so that comes first.
func preparedRows(prepared []undolog.Prepared) []preparedRow {
	out := make([]preparedRow, 0, len(prepared))
	for _, p := range prepared {
		row := preparedRow{GID: p.GID, Since: p.Since, Owner: p.Owner}
		if p.XID.IsZero() {
			row.Advice = fmt.Sprintf("not made by Handfast: ask whoever made it, then COMMIT PREPARED or ROLLBACK PREPARED '%s' as %s", p.GID, p.Owner)
		} else {
			row.XID, row.Branch = p.XID.String(), p.Branch.String()
			row.Advice = fmt.Sprintf("handfast tx show %s; where its coordinator is gone for good, decide by hand as %s", row.XID, p.Owner)
		}
		out = append(out, row)
	}
	return out
}

func showPending(s Streams, pending []undolog.PendingXID, prepared []preparedRow, asJSON bool) error {
	out := make([]pendingRow, 0, len(pending))
	for _, p := range pending {
		row := pendingRow{XID: p.XID.String(), Since: p.Since, Branches: []string{}, Rows: p.Intents, Tables: append([]string{}, p.Tables...)}
		for _, b := range p.Branches {
			row.Branches = append(row.Branches, b.String())
		}
		out = append(out, row)
	}
	if asJSON {
		return printJSON(s.Out, struct {
			Pending  []pendingRow  `json:"pending"`
			Prepared []preparedRow `json:"prepared"`
		}{out, prepared})
	}
	if len(out)+len(prepared) == 0 {
		_, err := fmt.Fprintln(s.Out, "nothing is pending")
		return err
	}
	rows := make([][]string, 0, len(out))
	for _, p := range out {
		rows = append(rows, []string{p.XID, p.Since.UTC().Format(timeLayout), strconv.Itoa(len(p.Branches)),
			strconv.FormatInt(p.Rows, 10), clean(strings.Join(p.Tables, ", "))})
	}
	if len(rows) > 0 {
		if err := table(s.Out, []string{"XID", "SINCE", "BRANCHES", "ROWS", "TABLES"}, rows); err != nil || len(prepared) == 0 {
			return err
		}
		if _, err := fmt.Fprintln(s.Out); err != nil {
			return err
		}
	}
	return showPrepared(s, prepared)
}

func showPrepared(s Streams, prepared []preparedRow) error {
	rows := make([][]string, 0, len(prepared))
	for _, p := range prepared {
		rows = append(rows, []string{clean(p.GID), p.Since.UTC().Format(timeLayout),
			time.Since(p.Since).Truncate(time.Second).String(), clean(p.Owner), clean(p.Advice)})
	}
	return table(s.Out, []string{"PREPARED", "SINCE", "AGE", "OWNER", "WHAT TO DO"}, rows)
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/undolog"
)

// Database is one of its own for each service.
type Database struct {
	Name    string
	Schema  string   // the service's tables
	Protect []string // those that AT mode changes
	Look    string   // a query for one text, which Show prints

	DSN string // set by Bench.Database
}

// Database makes one, with the schema handfast, as "handfast pg install" and
// "handfast pg protect" do.
func (b *Bench) Database(ctx context.Context, d Database) (*Database, error) {
	dsn, err := b.Postgres.CreateDatabase(ctx, d.Name)
	if err != nil {
		return nil, err
	}
	d.DSN = dsn
	err = d.session(ctx, func(conn *pgx.Conn) error {
		if err := undolog.Install(ctx, conn); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, d.Schema); err != nil || len(d.Protect) == 0 {
			return err
		}
		_, err := undolog.Protect(ctx, conn, d.Protect...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", d.Name, err)
	}
	b.databases = append(b.databases, &d)
	return &d, nil
}

// Pool opens a database as a service does that takes part in transactions. It is closed
// with the bench.
func (b *Bench) Pool(ctx context.Context, d *Database, opts ...rm.Option) (*rm.Pool, error) {
	p, err := rm.Open(ctx, b.Coordinator, d.DSN, append([]rm.Option{rm.WithLogger(Quiet)}, opts...)...)
	if err != nil {
		return nil, err
	}
	b.Cleanup(func() error { p.Close(); return nil })
	return p, nil
}

// Plain opens a database as a service does that knows nothing of the coordinator.
func (b *Bench) Plain(ctx context.Context, d *Database) (*pgxpool.Pool, error) {
	p, err := pgxpool.New(ctx, d.DSN)
	if err != nil {
		return nil, err
	}
	b.Cleanup(func() error { p.Close(); return nil })
	return p, nil
}

// Exec runs SQL in a plain session, as psql would.
func (d *Database) Exec(ctx context.Context, sql string) error {
	return d.session(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// Seen is what a plain session sees.
func (d *Database) Seen(ctx context.Context) (text string, err error) {
	err = d.session(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, d.Look).Scan(&text) })
	return text, err
}

func (d *Database) session(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, d.DSN)
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close(ctx))
}

// Show prints what plain sessions see in all databases.
func (b *Bench) Show(ctx context.Context, when string) error {
	var line strings.Builder
	for _, d := range b.databases {
		text, err := d.Seen(ctx)
		if err != nil {
			return fmt.Errorf("database %s: %w", d.Name, err)
		}
		fmt.Fprintf(&line, "   %s: %s", d.Name, text)
	}
	b.Say("%-20s%s", when, line.String())
	return nil
}

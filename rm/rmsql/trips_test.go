package rmsql_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/rm"
)

// counted counts the times that the client speaks after the server.
type counted struct {
	net.Conn
	heard atomic.Bool
	trips *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	if c.heard.Swap(false) {
		c.trips.Add(1)
	}
	return c.Conn.Write(b)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(true)
	}
	return n, err
}

// TestRoundTrips: a transaction under an XID costs no more than with stdlib.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var trips atomic.Int64
	cfg, err := pgxpool.ParseConfig(w.DSN + "&pool_max_conns=1")
	w.Check(err)
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &counted{Conn: c, trips: &trips}, nil
	}
	plain, err := pgxpool.NewWithConfig(w.Limited(), cfg)
	w.Check(err)
	t.Cleanup(plain.Close)
	pool, err := rm.New(w.Limited(), w.Client, plain)
	w.Check(err)
	t.Cleanup(pool.Close)
	branches, std := openDB(t, pool), stdlib.OpenDBFromPool(plain)
	t.Cleanup(func() { w.Check(std.Close()) })

	exec := func(ctx context.Context, d db) error { return affected(1)(d.ExecContext(ctx, move, 1, 1)) }
	query := func(ctx context.Context, d db) error {
		var n int
		return d.QueryRowContext(ctx, "UPDATE account SET balance = balance + $1 WHERE id = $2 RETURNING id", 1, 1).Scan(&n)
	}
	read := func(ctx context.Context, d db) error {
		_, err := ids(d.QueryContext(ctx, "SELECT id FROM account WHERE id = $1", 1))
		return err
	}
	several := func(ctx context.Context, d db) error { return errors.Join(query(ctx, d), exec(ctx, d), read(ctx, d)) }
	for name, c := range map[string]struct { //nolint:paralleltest // they share the connection
		work  work
		extra int64
	}{
		"Tx: Exec": {inTx("", exec), -1}, "Tx: Query": {inTx("", query), 0}, "Tx: several": {inTx("", several), 0},
		"Exec": {exec, 1}, "Query": {query, 2}, "read": {read, 2},
	} {
		t.Run(name, func(t *testing.T) {
			count := func(ctx context.Context, d db) int64 {
				w.Check(c.work(ctx, d)) // its statements are known now
				before := trips.Load()
				w.Check(c.work(ctx, d))
				return trips.Load() - before
			}
			ctx, x := w.Begin()
			want := count(w.Limited(), std) + c.extra
			hftest.Equal(t, "round trips", count(ctx, branches), want)
			w.Rollback(x)
		})
	}
}

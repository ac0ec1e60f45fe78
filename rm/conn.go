package rm

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Conn is a connection taken out of a Pool. Its methods mean what those of the
// Pool mean. It must not be used concurrently.
type Conn struct {
	executor
	c   *pgxpool.Conn // nil for a Conn made by On
	own *pgx.Conn     // of On
}

// Acquire takes a connection out of the pool. Release gives it back.
func (p *Pool) Acquire(ctx context.Context) (*Conn, error) {
	c, err := p.plain.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return &Conn{c: c, executor: executor{
		p: p, plain: c, last: &lastTx{},
		acquire: func(context.Context) (*pgx.Conn, func(), error) { return c.Conn(), nil, nil },
	}}, nil
}

// AcquireFunc takes a connection out of the pool for the time of f.
func (p *Pool) AcquireFunc(ctx context.Context, f func(*Conn) error) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	return f(c)
}

// Release gives the connection back. Releasing again does nothing.
func (c *Conn) Release() {
	if c.c != nil {
		c.c.Release()
	}
}

// Ping checks that the database answers.
func (c *Conn) Ping(ctx context.Context) error { return c.Conn().Ping(ctx) }

// Conn is the connection underneath. What is done with it is not part of a
// global transaction, unless inside a Tx of it.
func (c *Conn) Conn() *pgx.Conn {
	if c.c != nil {
		return c.c.Conn()
	}
	return c.own
}

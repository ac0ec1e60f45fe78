package rmsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/handfast/handfast/rm"
)

var errNoPool = errors.New("handfast: rmsql needs a *rm.Pool")

// OpenDB opens a *sql.DB on a pool. It keeps no idle connections, because the
// pool does; leave that so, and leave lifetimes to the pool, too. Closing the DB
// leaves the pool open; close the DB first. With a nil pool every use of the DB
// fails.
func OpenDB(pool *rm.Pool) *sql.DB {
	db := sql.OpenDB(NewConnector(pool))
	db.SetMaxIdleConns(0)
	return db
}

// NewConnector is for libraries that want a driver.Connector to wrap. Have the
// resulting DB keep no idle connections, as OpenDB does, or they are missing in
// the pool.
func NewConnector(pool *rm.Pool) driver.Connector {
	if pool == nil {
		return connector{}
	}
	return connector{pool: pool, std: stdlib.GetPoolConnector(pool.Plain())}
}

type connector struct {
	pool *rm.Pool
	std  driver.Connector
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	if c.pool == nil {
		return nil, errNoPool
	}
	d, err := c.std.Connect(ctx)
	if err != nil {
		return nil, err
	}
	std, ok := d.(*stdlib.Conn)
	if !ok {
		_ = d.Close() // it is unused
		return nil, fmt.Errorf("handfast: pgx gave a connection of type %T", d)
	}
	return &Conn{std: std, rm: c.pool.On(std.Conn())}, nil
}

// Driver implements driver.Connector.
func (connector) Driver() driver.Driver { return noDriver{} }

// noDriver refuses to open by name: the connections of another driver would
// leave the global transaction without a word.
type noDriver struct{}

// Open implements driver.Driver.
func (noDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("handfast: a database can't be opened by name; use rmsql.OpenDB, or rmsql.NewConnector where a driver is to be wrapped")
}

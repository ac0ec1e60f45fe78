// Package rmsql gives database/sql to services that take part in global
// transactions, and with it to what is built on database/sql: GORM, sqlx, bun,
// ent, the code that sqlc generates.
//
//	pool, err := rm.Open(ctx, coordinator, dsn)
//	...
//	db := rmsql.OpenDB(pool) // an ordinary *sql.DB
//	_, err = db.ExecContext(ctx, "UPDATE stock SET n = n - $1 WHERE id = $2", 1, id)
//
// It is pgx's own package stdlib on the pool underneath, framed by the branches
// of package rm:
//
//	database/sql --> Conn --no XID------------------> stdlib.Conn --+
//	                  |                                             +--> *pgx.Conn
//	                  +--XID--> rm.Conn: begin, arm, wait, commit --+
//	                              |    queries: stdlib.Conn, so that
//	                              |    values and column types are stdlib's
//	                              +--> coordinator
//
// # With an XID in the context
//
// BeginTx begins a branch; everything that is done with the *sql.Tx is part of
// it, also by methods that take no context, or one without the XID. A statement
// on the DB or on a *sql.Conn is a branch of its own: on a lock conflict it waits
// and runs again, until the lock timeout of the pool. A single query that only
// reads, and a transaction that is begun read only, are no branch.
//
// DB.Begin, without a context, begins an ordinary transaction. A statement in it
// whose context carries an XID is refused with [rm.ErrOtherTransaction], because
// its changes would stay when the global transaction rolls back.
//
// A query that writes (INSERT ... RETURNING on the DB) is committed when its rows
// are read to the end, or closed. As everywhere in database/sql, look at the
// error of Rows.Err and, after leaving early, of Rows.Close: it is that of the
// commit. Row.Scan does both.
//
// # Messages
//
// [Publish] and [PublishMessage] are those of package rm: what they are given is delivered
// exactly if the *sql.Tx commits, or the global transaction that it belongs to.
//
//	err = rmsql.Publish(ctx, tx, target.HTTP("http://mail/welcome", target.Payload(user)))
//
// # Errors
//
// They are those of packages rm and pgx: errors.As finds *[rm.LockConflictError]
// and *pgconn.PgError, errors.Is finds [rm.ErrDecided]. Under an XID
// driver.ErrBadConn is given only where a connection was found broken before
// anything was sent, so that database/sql never runs a statement twice.
//
// # Raw connections
//
// sql.Conn.Raw gives a *[Conn] where stdlib would give a *stdlib.Conn; both
// have the method Conn() *pgx.Conn.
package rmsql

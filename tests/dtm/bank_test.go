package dtm

import (
	"database/sql"
	"fmt"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/jackc/pgx/v5"
)

// bank is a database with accounts and the table of DTM's barriers.
type bank struct {
	t    *testing.T
	db   *sql.DB
	conf dtmcli.DBConf
}

const barriers = `
CREATE SCHEMA dtm_barrier;
CREATE TABLE dtm_barrier.barrier (id bigserial PRIMARY KEY, trans_type varchar(45), gid varchar(128), branch_id varchar(128),
	op varchar(45), barrier_id varchar(45), reason varchar(45), create_time timestamptz DEFAULT now(), update_time timestamptz DEFAULT now(),
	CONSTRAINT uniq_barrier UNIQUE (gid, branch_id, op, barrier_id));
CREATE TABLE account (name text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0), frozen bigint NOT NULL DEFAULT 0 CHECK (frozen >= 0))`

// newBank has two accounts, "out" and "in", with 100 each.
func newBank(t *testing.T) *bank {
	t.Helper()
	c, err := pgx.ParseConfig(cluster.DSN(t))
	check(t, err)
	b := &bank{t: t, conf: dtmcli.DBConf{Driver: dtmcli.DBTypePostgres, Host: c.Host, Port: int64(c.Port), User: c.User,
		Password: c.Password, Db: c.Database, Schema: "public"}}
	if b.conf.Password == "" {
		b.conf.Password = "none" // the client leaves a gap that the driver takes for something else
	}
	b.db, err = sql.Open(b.conf.Driver, dsn(b.conf))
	check(t, err)
	t.Cleanup(func() { _ = b.db.Close() })
	b.exec(barriers)
	b.exec(`INSERT INTO account (name, balance) VALUES ('out', 100), ('in', 100)`)
	return b
}

// dsn is the address of a database, for the driver that the client uses, too.
func dsn(c dtmcli.DBConf) string {
	c.Driver = dtmcli.DBTypePostgres
	return dtmimp.GetDsn(c)
}

func (b *bank) exec(q string, args ...any) {
	b.t.Helper()
	_, err := b.db.ExecContext(b.t.Context(), q, args...)
	check(b.t, err)
}

// holds compares the two accounts.
func (b *bank) holds(out, in int) {
	b.t.Helper()
	same(b.t, "balances", []string{b.balance("out"), b.balance("in")}, []string{fmt.Sprint(out, " 0"), fmt.Sprint(in, " 0")})
}

// balance is what an account has, and what is frozen of that.
func (b *bank) balance(name string) string {
	b.t.Helper()
	var balance, frozen int
	check(b.t, b.db.QueryRowContext(b.t.Context(), `SELECT balance, frozen FROM account WHERE name = $1`, name).Scan(&balance, &frozen))
	return fmt.Sprint(balance, frozen)
}

// barrier is that of a call.
func barrier(c call) (*dtmcli.BranchBarrier, error) {
	switch c.Via {
	case "grpc":
		return dtmgrpc.BarrierFromGrpc(c.Context)
	case "json-rpc":
		return dtmcli.BarrierFrom(c.Type, c.Gid, c.Branch, c.Op)
	}
	return dtmcli.BarrierFromQuery(c.Query)
}

// guarded changes an account in a call, behind a barrier.
func (b *bank) guarded(c call, q string, args ...any) error {
	bb, err := barrier(c)
	if err != nil {
		return err
	}
	return bb.CallWithDB(b.db, func(tx *sql.Tx) error { return change(tx, q, args...) })
}

// change refuses where no row is changed.
func change(tx dtmcli.DB, q string, args ...any) error {
	r, err := tx.Exec(q, args...)
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return fmt.Errorf("refused %w: %v", dtmcli.ErrFailure, err) //nolint:errorlint // one of them
	}
	return nil
}

const (
	take = `UPDATE account SET balance = balance - $2 WHERE name = $1 AND balance >= $2`
	give = `UPDATE account SET balance = balance + $2 WHERE name = $1`
)

// moves has the services "out" and "in" move an amount in a saga or a message.
func (b *bank) moves(w *world, n int) {
	w.on("out action", func(c call) error { return b.guarded(c, take, "out", n) })
	w.on("out compensate", func(c call) error { return b.guarded(c, give, "out", n) })
	w.on("in action", func(c call) error { return b.guarded(c, give, "in", n) })
	w.on("in compensate", func(c call) error { return b.guarded(c, take, "in", n) })
}

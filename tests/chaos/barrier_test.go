//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/target"
)

// What a service of DTM has: its barrier. It is our own, with the rules of DTM's and
// nothing of its client, which can't be linked into one program with our protocols.
//
// An operation has one row, made with its effect. What undoes puts the row of what it
// undoes there as well, and where that is new there is nothing to undo, and what comes
// late finds its place taken.
const barrierSchema = `
	CREATE TABLE barrier (gid text, branch text, op text, reason text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (gid, branch, op));`

// branchCall is a call in DTM's words.
type branchCall struct{ gid, branch, op string }

// opOf is what DTM's words are in ours, and undoes is what an operation undoes.
var (
	opOf = map[string]fence.Action{
		"action": fence.Forward, "compensate": fence.Rollback,
		"try": fence.Forward, "confirm": fence.Commit, "cancel": fence.Rollback,
	}
	undoes = map[string]string{"compensate": "action", "cancel": "try"}
)

var errNoBranch = errors.New("not a call of a branch")

func branchOf(r *http.Request) (branchCall, error) {
	q := r.URL.Query()
	c := branchCall{q.Get("gid"), q.Get("branch_id"), q.Get("op")}
	if c.gid == "" || c.branch == "" || c.op == "" {
		return c, fmt.Errorf("%w: %s", errNoBranch, r.URL.RawQuery)
	}
	return c, nil
}

// enter takes the place of an operation in the barrier, and tells whether it is free.
// It waits for whoever is about to take it.
func (c branchCall) enter(ctx context.Context, tx pgx.Tx, op, reason string) (bool, error) {
	tag, err := tx.Exec(ctx, "INSERT INTO barrier VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", c.gid, c.branch, op, reason)
	return tag.RowsAffected() == 1, err
}

// once runs f in a local transaction, unless it has run, came too late, or has nothing
// to undo: then there is nothing left to do, which is a success.
func (s *service) once(ctx context.Context, c branchCall, f func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool.Plain(), func(tx pgx.Tx) error {
		if s.p.Planted == plantedNoBarrier && c.op != "cancel" && c.op != "try" { // a cancellation without a Try would get stuck
			return f(tx)
		}
		empty := false
		if undone := undoes[c.op]; undone != "" {
			var err error
			if empty, err = c.enter(ctx, tx, undone, c.op); err != nil {
				return err
			}
		}
		first, err := c.enter(ctx, tx, c.op, c.op)
		if err != nil || empty || !first {
			return err
		}
		return f(tx)
	})
}

// branch carries out the same actions as for Handfast's own transactions.
func (s *service) branch(w http.ResponseWriter, r *http.Request) {
	c, err := branchOf(r)
	action, ok := opOf[c.op]
	if err != nil || !ok {
		http.Error(w, fmt.Sprintf("op %q: %v", c.op, err), http.StatusBadRequest)
		return
	}
	name := r.PathValue("name")
	answer(w, s.once(r.Context(), c, func(tx pgx.Tx) error {
		return leave(r.Context(), tx, c.gid, c.branch, name, action)
	}))
}

// The row of a message's local transaction, as DTM has it.
func localOf(gid string) branchCall { return branchCall{gid, "00", "msg"} }

// local is the local transaction of a message. Where its sender was asked before, it is
// too late.
func (s *service) local(w http.ResponseWriter, r *http.Request) {
	c, ctx := localOf(r.PathValue("gid")), r.Context()
	answer(w, pgx.BeginFunc(ctx, s.pool.Plain(), func(tx pgx.Tx) error {
		first, err := c.enter(ctx, tx, c.op, "committed")
		if err != nil {
			return err
		}
		if !first {
			return target.ErrFailed
		}
		_, err = tx.Exec(ctx, "INSERT INTO sent VALUES ($1, true)", c.gid)
		return err
	}))
}

// queryPrepared tells what became of the local transaction, and sees to it that it stays
// so.
func (s *service) queryPrepared(w http.ResponseWriter, r *http.Request) {
	asked, err := branchOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.p.Planted == plantedCredulous {
		return
	}
	c, ctx := localOf(asked.gid), r.Context()
	reason := ""
	err = pgx.BeginFunc(ctx, s.pool.Plain(), func(tx pgx.Tx) error {
		if _, err := c.enter(ctx, tx, c.op, "rolled back"); err != nil {
			return err
		}
		// Another statement, for whoever was waited for is newer than the first one.
		return tx.QueryRow(ctx, "SELECT reason FROM barrier WHERE gid = $1 AND branch = $2 AND op = $3", c.gid, c.branch, c.op).Scan(&reason)
	})
	if err == nil && reason != "committed" {
		err = target.ErrFailed
	}
	answer(w, err)
}

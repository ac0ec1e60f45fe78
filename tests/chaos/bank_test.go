//go:build unix

package chaos

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

// The bank: accounts in both databases, of which those up to crossAccounts send money
// between the databases, and the inner ones only to each other, so that whoever sees
// committed rows alone sees a sum that never changes.
const (
	crossAccounts = 60
	firstInner    = 101
	innerAccounts = 20
	opening       = 1000
)

const schema = `
	CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
	INSERT INTO account SELECT i, 1000 FROM generate_series(1, 60) i UNION ALL SELECT i, 1000 FROM generate_series(101, 120) i;
	CREATE TABLE journal (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), xid text NOT NULL, mark text NOT NULL);
	CREATE TABLE stock (id int PRIMARY KEY, onhand bigint CHECK (onhand >= 0), held bigint CHECK (held >= 0), sold bigint CHECK (sold >= 0));
	INSERT INTO stock SELECT i, 100000000, 0, 0 FROM generate_series(1, 4) i;
	CREATE TABLE purse (id int PRIMARY KEY, balance bigint CHECK (balance >= 0));
	INSERT INTO purse SELECT i, 100000000 FROM generate_series(1, 4) i;
	CREATE TABLE effect (xid text NOT NULL, branch text NOT NULL, name text NOT NULL, action text NOT NULL);
	CREATE TABLE sent (id text PRIMARY KEY, really boolean NOT NULL);` + barrierSchema

var protected = []string{"account", "journal"}

var errPoor = errors.New("not enough money")

// change is one local transaction of the bank. It leaves a mark.
func change(ctx context.Context, tx pgx.Tx, account string, delta int, mark string) error {
	tag, err := tx.Exec(ctx, "UPDATE account SET balance = balance + $2 WHERE id = $1 AND balance + $2 >= 0", account, delta)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return errPoor
	}
	x, _ := xid.FromContext(ctx)
	_, err = tx.Exec(ctx, "INSERT INTO journal (xid, mark) VALUES ($1, $2)", x.String(), mark)
	return err
}

func numbers(r *http.Request) (account string, delta int) {
	delta, _ = strconv.Atoi(r.URL.Query().Get("delta"))
	return r.URL.Query().Get("account"), delta
}

// at changes an account in AT mode, and sends a note with it if it is asked to.
func (s *service) at(w http.ResponseWriter, r *http.Request) {
	account, delta := numbers(r)
	ctx := r.Context()
	answer(w, pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := change(ctx, tx, account, delta, "at"); err != nil {
			return err
		}
		if r.URL.Query().Get("note") != "" {
			return rm.Publish(ctx, tx, s.target(1, "note"))
		}
		return nil
	}))
}

// xa does the same in XA mode, with the same accounts.
func (s *service) xa(w http.ResponseWriter, r *http.Request) {
	account, delta := numbers(r)
	ctx := r.Context()
	tx, err := s.pool.BeginXA(ctx, pgx.TxOptions{})
	if err != nil {
		answer(w, err)
		return
	}
	if err := change(ctx, tx, account, delta, "xa"); err != nil {
		answer(w, errors.Join(err, tx.Rollback(ctx)))
		return
	}
	answer(w, tx.Commit(ctx))
}

// inner is two branches in one database: nobody who reads committed rows sees one of
// them without the other.
func (s *service) inner(w http.ResponseWriter, r *http.Request) {
	q, ctx := r.URL.Query(), r.Context()
	_, delta := numbers(r)
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return change(ctx, tx, q.Get("from"), -delta, "out") })
	if err == nil {
		in := func(tx pgx.Tx) error { return change(ctx, tx, q.Get("to"), delta, "in") }
		if s.p.Planted == plantedOutside {
			err = pgx.BeginFunc(ctx, s.pool.Plain(), in)
		} else {
			err = pgx.BeginFunc(ctx, s.pool, in)
		}
	}
	answer(w, err)
}

// publish sends a message with a plain local transaction.
func (s *service) publish(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	answer(w, pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		m := message.New("publish").To(s.target(0, "deliver"), message.Retry(retry)).To(s.target(1, "deliver"), message.Retry(retry))
		id, err := rm.PublishMessage(ctx, tx, m)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO sent VALUES ($1, true)", id.String()); err != nil {
			return err
		}
		if r.URL.Query().Get("refuse") != "" {
			return errRefused
		}
		return nil
	}))
}

// send is the local transaction of a message that was prepared.
func (s *service) send(w http.ResponseWriter, r *http.Request) {
	_, err := s.pool.Plain().Exec(r.Context(), "INSERT INTO sent VALUES ($1, true)", r.PathValue("id"))
	answer(w, err)
}

// check is asked by the coordinator where nobody said. It shuts a send out that has not
// happened, or waits for it.
func (s *service) check(w http.ResponseWriter, r *http.Request) {
	call, err := fence.FromHTTP(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var really bool
	_, err = s.pool.Plain().Exec(r.Context(), "INSERT INTO sent VALUES ($1, false) ON CONFLICT DO NOTHING", call.XID.String())
	if err == nil {
		err = s.pool.Plain().QueryRow(r.Context(), "SELECT really FROM sent WHERE id = $1", call.XID.String()).Scan(&really)
	}
	if err == nil && !really {
		err = target.ErrFailed
	}
	answer(w, err)
}

func (c *caller) move(ctx context.Context, from, to string) error {
	amount := 1 + c.intn(5)
	for i, path := range []string{from, to} {
		delta := amount
		if i == 0 {
			delta = -amount
		}
		q := url.Values{"account": {strconv.Itoa(1 + c.intn(crossAccounts))}, "delta": {strconv.Itoa(delta)}}
		if err := c.post(ctx, path, q); err != nil {
			return err
		}
	}
	return c.maybe()
}

// transfer sends money from one database to the other, in modes that it is given: the
// mark at each end follows from them. The direction is chance.
func transfer(a, b string) func(*caller, context.Context) error {
	return func(c *caller, ctx context.Context) error {
		ends := []string{c.p.Services[0] + "/" + a, c.p.Services[1] + "/" + b}
		if c.intn(2) == 0 {
			ends[0], ends[1] = ends[1], ends[0]
		}
		return c.move(ctx, ends[0], ends[1])
	}
}

func (c *caller) inner(ctx context.Context) error {
	from := c.intn(innerAccounts)
	to := (from + 1 + c.intn(innerAccounts-1)) % innerAccounts
	err := c.post(ctx, c.p.Services[0]+"/inner", url.Values{"delta": {strconv.Itoa(1 + c.intn(20))},
		"from": {strconv.Itoa(firstInner + from)}, "to": {strconv.Itoa(firstInner + to)}})
	return errors.Join(err, c.maybe())
}

// plain is a session that knows nothing of Handfast, and writes to rows of those that do.
// It has to wait, or is refused, and does it again another time.
func (c *caller) plain(ctx context.Context) error {
	i := c.intn(2)
	low, n := 1, crossAccounts
	if c.intn(2) == 0 {
		low, n = firstInner, innerAccounts
	}
	from := c.intn(n)
	to := (from + 1 + c.intn(n-1)) % n
	options := pgx.TxOptions{IsoLevel: []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}[c.intn(3)]}
	return pgx.BeginTxFunc(ctx, c.sessions[i], options, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'"); err != nil {
			return err
		}
		amount := 1 + c.intn(5)
		tag, err := tx.Exec(ctx, "UPDATE account SET balance = balance - $2 WHERE id = $1 AND balance >= $2", low+from, amount)
		if err == nil && tag.RowsAffected() == 1 {
			_, err = tx.Exec(ctx, "UPDATE account SET balance = balance + $2 WHERE id = $1", low+to, amount)
		}
		return err
	})
}

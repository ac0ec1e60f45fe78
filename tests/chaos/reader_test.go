//go:build unix

package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// read looks at committed rows all the time: of transactions in one database nobody may
// see a half, so the sum of the inner accounts never changes.
func (w *world) read(ctx context.Context, i int) {
	for ctx.Err() == nil {
		if err := w.readOn(ctx, i); err != nil {
			wait(ctx, 200*time.Millisecond) // it is away
		}
	}
}

func (w *world) readOn(ctx context.Context, i int) error {
	limited, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := pgx.Connect(limited, w.db[i].dsn())
	if err != nil {
		return err
	}
	defer func() {
		limited, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(limited)
	}()
	for wait(ctx, 10*time.Millisecond) {
		if err := w.look(ctx, i, conn); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) look(ctx context.Context, i int, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var sum, least, n int64
	err := conn.QueryRow(ctx, fmt.Sprintf(`SELECT sum(balance) FILTER (WHERE id >= %d), min(balance), count(*) FROM account_committed`, firstInner)).Scan(&sum, &least, &n)
	if err != nil {
		return err
	}
	w.counts.add("reads of committed rows", 1)
	if sum != innerAccounts*opening || least < 0 || n != crossAccounts+innerAccounts {
		w.wrongf("", "a reader of committed rows of %s saw a sum of %d in %d accounts, the least %d", w.db[i].name(), sum, n, least)
	}
	return nil
}

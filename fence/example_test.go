package fence_test

import (
	"context"
	"database/sql"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/fence"
)

// A participant of a TCC transaction or a saga, over HTTP. One handler may serve all
// actions of a branch: the call says which it is.
func Example_http() {
	handler := func(pool *pgxpool.Pool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			call, err := fence.FromHTTP(r)
			if err != nil {
				http.Error(w, err.Error(), fence.HTTPStatus(err))
				return
			}
			out, err := fence.Run(r.Context(), pool, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
				change := map[fence.Action]int{fence.Forward: -1, fence.Rollback: 1}[call.Action]
				var left string
				err := tx.QueryRow(ctx, "UPDATE item SET n = n + $1 WHERE sku = 'A-7' RETURNING n::text", change).Scan(&left)
				return []byte(left), err
			})
			if err != nil {
				http.Error(w, err.Error(), fence.HTTPStatus(err))
				return
			}
			_, _ = w.Write(out.Result) // the same for every repetition
		})
	}
	_ = handler
}

// With database/sql, and with what is built on it.
func ExampleRunSQL() {
	reserve := func(ctx context.Context, db *sql.DB, call fence.Call, sku string) error {
		_, err := fence.RunSQL(ctx, db, call, func(ctx context.Context, tx *sql.Tx) ([]byte, error) {
			_, err := tx.ExecContext(ctx, "UPDATE item SET n = n - 1 WHERE sku = $1", sku)
			return nil, err
		})
		return err
	}
	_ = reserve
}

// In a transaction of one's own, with its own options. It is committed before the call is
// answered, also where nothing had to be done.
func ExampleDo() {
	reserve := func(ctx context.Context, pool *pgxpool.Pool, call fence.Call, sku string) error {
		return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
			_, err := fence.Do(ctx, tx, call, func(ctx context.Context) ([]byte, error) {
				_, err := tx.Exec(ctx, "UPDATE item SET n = n - 1 WHERE sku = $1", sku)
				return nil, err
			})
			return err
		})
	}
	_ = reserve
}

// A caller names the call in the headers of its request, and uses the same values each
// time it sends it again.
func ExampleCall_Set() {
	send := func(ctx context.Context, call fence.Call, url string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
		if err != nil {
			return nil, err
		}
		call.Set(r.Header)
		return http.DefaultClient.Do(r)
	}
	_ = send
}

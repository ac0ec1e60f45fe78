package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
)

// errRefused: there is too little of something, and trying again does not help.
var errRefused = fmt.Errorf("refused, and %w", target.ErrFailed)

// amount is so much of something: what stock and accounts are sent over HTTP.
type amount struct {
	Name  string `json:"name"`
	Count int32  `json:"count"`
}

// change is what an action does in its local transaction.
type change func(ctx context.Context, tx pgx.Tx, a amount) error

// keeper is what stock and accounts have in common: so much is there under a name,
// and some of that may be reserved.
type keeper struct {
	db                *rm.Pool
	gate              *gate
	table, key, value string
}

func (k *keeper) sql(format string) string { return fmt.Sprintf(format, k.table, k.key, k.value) }

func (k *keeper) take(ctx context.Context, tx pgx.Tx, a amount) error {
	return some(a)(tx.Exec(ctx, k.sql(`UPDATE %[1]s SET %[3]s = %[3]s - $2
		WHERE %[2]s = $1 AND %[3]s - coalesce((SELECT count FROM reserved WHERE name = $1), 0) >= $2`), a.Name, a.Count))
}

func (k *keeper) putBack(ctx context.Context, tx pgx.Tx, a amount) error {
	return some(a)(tx.Exec(ctx, k.sql("UPDATE %[1]s SET %[3]s = %[3]s + $2 WHERE %[2]s = $1"), a.Name, a.Count))
}

// reserve leaves what is there, and keeps it for Confirm. The row lock keeps two
// from reserving the same.
func (k *keeper) reserve(ctx context.Context, tx pgx.Tx, a amount) error {
	return some(a)(tx.Exec(ctx, k.sql(`WITH there AS (SELECT %[3]s AS n FROM %[1]s WHERE %[2]s = $1 FOR UPDATE)
		INSERT INTO reserved AS r SELECT $1, $2 FROM there
			WHERE n - coalesce((SELECT count FROM reserved WHERE name = $1), 0) >= $2
		ON CONFLICT (name) DO UPDATE SET count = r.count + excluded.count`), a.Name, a.Count))
}

// confirm would take twice where it ran twice. The fence is what keeps it from that.
func (k *keeper) confirm(ctx context.Context, tx pgx.Tx, a amount) error {
	if err := k.cancel(ctx, tx, a); err != nil {
		return err
	}
	return k.take(ctx, tx, a)
}

func (k *keeper) cancel(ctx context.Context, tx pgx.Tx, a amount) error {
	if err := some(a)(tx.Exec(ctx, "UPDATE reserved SET count = count - $2 WHERE name = $1", a.Name, a.Count)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "DELETE FROM reserved WHERE count = 0")
	return err
}

// some gives errRefused where a statement found no row to change.
func some(a amount) func(interface{ RowsAffected() int64 }, error) error {
	return func(tag interface{ RowsAffected() int64 }, err error) error {
		if err == nil && tag.RowsAffected() == 0 {
			return fmt.Errorf("%w: there is no %d of %s", errRefused, a.Count, a.Name)
		}
		return err
	}
}

// action makes the effect of one call of the coordinator, once however often it
// is called.
func (k *keeper) action(ctx context.Context, call fence.Call, name string, a amount, f change) error {
	_, err := fence.Run(ctx, k.db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		return nil, f(ctx, tx, a)
	})
	if err != nil {
		return err
	}
	return k.gate.at(ctx, name, call.XID.String())
}

// branch makes the effect in a local transaction, which is a branch because the
// context carries an XID.
func (k *keeper) branch(ctx context.Context, prepare bool, a amount, f change) error {
	if prepare {
		ctx = rm.ContextWithMode(ctx, rm.XA)
	}
	tx, err := k.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // does nothing after the commit
	if err := f(ctx, tx, a); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// overGRPC serves both who makes a branch and who calls an action.
func (k *keeper) overGRPC(ctx context.Context, name string, prepare bool, a amount, f change) error {
	call, err := fence.FromGRPC(ctx)
	switch {
	case errors.Is(err, fence.ErrNoCall):
		err = k.branch(ctx, prepare, a, f)
	case err != nil:
		return status.Error(codes.InvalidArgument, err.Error())
	default:
		err = k.action(ctx, call, name, a, f)
	}
	if errors.Is(err, target.ErrFailed) {
		return status.Error(codes.Aborted, err.Error())
	}
	return err
}

// deliver is where messages come in.
const deliver = "deliver"

// routes are the actions over plain HTTP, for TCC and messages.
func (k *keeper) routes() http.Handler {
	mux := http.NewServeMux()
	for name, f := range map[string]change{deliver: k.take, "reserve": k.reserve, "confirm": k.confirm, "cancel": k.cancel} {
		mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
			call, err := fence.FromHTTP(r)
			var a amount
			if err == nil {
				err = json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&a)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			if err := k.action(r.Context(), call, name, a, f); err != nil {
				http.Error(w, err.Error(), fence.HTTPStatus(err))
			}
		})
	}
	return mux
}

type stock struct {
	shopv1.UnimplementedStockServer
	*keeper
}

func newStock(db *rm.Pool, g *gate) *stock {
	return &stock{keeper: &keeper{db: db, gate: g, table: "stock", key: "item", value: "count"}}
}

// Take takes items from stock.
func (s *stock) Take(ctx context.Context, r *shopv1.TakeRequest) (*shopv1.TakeResponse, error) {
	return &shopv1.TakeResponse{}, s.overGRPC(ctx, "take", r.GetPrepare(), amount{r.GetItem(), r.GetCount()}, s.take)
}

// PutBack compensates Take.
func (s *stock) PutBack(ctx context.Context, r *shopv1.TakeRequest) (*shopv1.TakeResponse, error) {
	return &shopv1.TakeResponse{}, s.overGRPC(ctx, "put-back", r.GetPrepare(), amount{r.GetItem(), r.GetCount()}, s.putBack)
}

type accounts struct {
	shopv1.UnimplementedAccountsServer
	*keeper
}

func newAccounts(db *rm.Pool, g *gate) *accounts {
	return &accounts{keeper: &keeper{db: db, gate: g, table: "accounts", key: "name", value: "balance"}}
}

// Charge takes money from an account, and refuses where it holds too little.
func (s *accounts) Charge(ctx context.Context, r *shopv1.ChargeRequest) (*shopv1.ChargeResponse, error) {
	return &shopv1.ChargeResponse{}, s.overGRPC(ctx, "charge", r.GetPrepare(), amount{r.GetAccount(), r.GetAmount()}, s.take)
}

// Refund compensates Charge.
func (s *accounts) Refund(ctx context.Context, r *shopv1.ChargeRequest) (*shopv1.ChargeResponse, error) {
	return &shopv1.ChargeResponse{}, s.overGRPC(ctx, "refund", r.GetPrepare(), amount{r.GetAccount(), r.GetAmount()}, s.putBack)
}

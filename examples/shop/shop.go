// Package shop is the example of the README: two services, each with a
// database of its own, and one transaction over both.
package shop

import (
	"context"
	"fmt"
	"net/http"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid/xidhttp"
)

// Orders is the service that begins the transaction.
type Orders struct {
	DB    *rm.Pool     // rm.Open(ctx, coordinator, dsn); used like a pgxpool.Pool
	Tx    *tm.Manager  // tm.New(coordinator), with coordinator from client.Dial("127.0.0.1:4263")
	HTTP  *http.Client // &http.Client{Transport: &xidhttp.Transport{}}: the XID goes along
	Stock string       // URL of the other service
}

// Place adds an order here and takes the item from stock there: both or neither.
func (o *Orders) Place(ctx context.Context, item string) error {
	return o.Tx.Do(ctx, func(ctx context.Context) error { // this ctx carries the XID
		if _, err := o.DB.Exec(ctx, `INSERT INTO orders (item) VALUES ($1)`, item); err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.Stock+"/take/"+item, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := o.HTTP.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("stock says %s", resp.Status) // an error rolls back everything
		}
		return nil // nil commits everything
	}, tm.WithName("place order"))
}

// Stock is the other service. It takes part by having the XID in its context.
func Stock(db *rm.Pool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /take/{item}", func(w http.ResponseWriter, r *http.Request) {
		took, err := db.Exec(r.Context(), `UPDATE stock SET n = n - 1 WHERE item = $1 AND n > 0`, r.PathValue("item"))
		if err != nil || took.RowsAffected() == 0 {
			http.Error(w, "not in stock", http.StatusConflict)
		}
	})
	return xidhttp.Middleware(mux) // takes the XID from the request into its context
}

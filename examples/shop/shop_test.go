package shop_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/examples/shop"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid/xidhttp"
)

var cluster = pgtest.New(pgserver.Options{})

func TestMain(m *testing.M) { os.Exit(cluster.Run(m)) }

// coordinator runs one until the test ends and connects to it.
func coordinator(t *testing.T) *client.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := tc.NewServer(t.Context(), tc.Config{Listener: l, StoreDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	c, err := client.Dial(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// database makes one with a protected table, as "handfast pg" does, and opens
// it twice: as a service does, and plainly.
func database(t *testing.T, c *client.Client, table, ddl string) (*rm.Pool, *pgx.Conn) {
	t.Helper()
	dsn := cluster.DSN(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), ddl); err != nil {
		t.Fatal(err)
	}
	if err := undolog.Install(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if _, err := undolog.Protect(t.Context(), conn, table); err != nil {
		t.Fatal(err)
	}
	pool, err := rm.Open(t.Context(), c, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, conn
}

func TestOrderAndStockChangeTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	c := coordinator(t)
	ordersDB, orders := database(t, c, "orders", `CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text)`)
	stockDB, stock := database(t, c, "stock", `CREATE TABLE stock (item text PRIMARY KEY, n int); INSERT INTO stock VALUES ('tea', 1)`)
	service := httptest.NewServer(shop.Stock(stockDB))
	t.Cleanup(service.Close)
	o := &shop.Orders{DB: ordersDB, Tx: tm.New(c), HTTP: &http.Client{Transport: &xidhttp.Transport{}}, Stock: service.URL}

	// A rollback is told before it is carried out, so look polls Postgres.
	look := func(wantOrders, wantStock int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			var gotOrders, gotStock int
			if err := orders.QueryRow(ctx, `SELECT count(*) FROM orders`).Scan(&gotOrders); err != nil {
				t.Fatal(err)
			}
			if err := stock.QueryRow(ctx, `SELECT n FROM stock`).Scan(&gotStock); err != nil {
				t.Fatal(err)
			}
			if gotOrders == wantOrders && gotStock == wantStock {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%d orders and %d in stock, want %d and %d", gotOrders, gotStock, wantOrders, wantStock)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	if err := o.Place(t.Context(), "tea"); err != nil {
		t.Fatal(err)
	}
	look(1, 0)
	if err := o.Place(t.Context(), "tea"); !errors.Is(err, tm.ErrRolledBack) {
		t.Fatalf("got %v, want it rolled back", err)
	}
	look(1, 0)
}

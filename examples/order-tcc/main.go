// Command order-tcc places orders in TCC mode: a stock service and a payment service
// reserve (Try), and the coordinator has them confirm or cancel. It brings everything
// along that it needs: run it with
//
//	go run ./examples/order-tcc
//
// The interesting parts are order.go and service.go.
package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/handfast/handfast/examples/internal/bench"
)

func main() { bench.Main("order-tcc", stage) }

func stage(ctx context.Context, b *bench.Bench) error {
	s, net, err := open(ctx, b)
	if err != nil {
		return err
	}
	b.Title("Two teapots for 60")
	if err := s.place(ctx, item{"teapot", 2}, money{"anna", 60}); err != nil {
		return err
	}
	if err := b.Show(ctx, "confirmed"); err != nil {
		return err
	}
	b.Title("Two teapots for 60 again, and only 40 are left: the payment is refused")
	if err := refused(ctx, b, s.place(ctx, item{"teapot", 2}, money{"anna", 60})); err != nil {
		return err
	}
	b.Title("One teapot for 30, and Try of the payment gets lost on its way")
	net.lose()
	if err := refused(ctx, b, s.place(ctx, item{"teapot", 1}, money{"anna", 30})); err != nil {
		return err
	}
	b.Title("The lost Try arrives after all")
	net.deliver(ctx)
	return b.Show(ctx, "afterwards")
}

// open makes the three services.
func open(ctx context.Context, b *bench.Bench) (*shop, *network, error) {
	stockDB, err := b.Database(ctx, bench.Database{
		Name:   "stock",
		Schema: `CREATE TABLE stock (item text PRIMARY KEY, free int NOT NULL, reserved int NOT NULL); INSERT INTO stock VALUES ('teapot', 10, 0)`,
		Look:   `SELECT format('%s free, %s reserved', free, reserved) FROM stock`,
	})
	if err != nil {
		return nil, nil, err
	}
	paymentDB, err := b.Database(ctx, bench.Database{
		Name:   "payment",
		Schema: `CREATE TABLE account (customer text PRIMARY KEY, balance int NOT NULL, held int NOT NULL); INSERT INTO account VALUES ('anna', 100, 0)`,
		Look:   `SELECT format('balance %s, held %s', balance, held) FROM account`,
	})
	if err != nil {
		return nil, nil, err
	}
	stockPool, err := b.Plain(ctx, stockDB)
	if err != nil {
		return nil, nil, err
	}
	paymentPool, err := b.Plain(ctx, paymentDB)
	if err != nil {
		return nil, nil, err
	}
	s, net := &shop{tx: b.Tx}, &network{to: told(b, "payment", payment(paymentPool))}
	if s.stock, err = b.Serve(ctx, told(b, "stock", stock(stockPool))); err != nil {
		return nil, nil, err
	}
	s.payment, err = b.Serve(ctx, net)
	return s, net, err
}

func refused(ctx context.Context, b *bench.Bench, err error) error {
	cause, err := b.Undone(ctx, err)
	if err != nil {
		return err
	}
	b.Say("rolled back: %s", strings.Join(strings.Fields(cause.Error()), " ")) // in one line
	return b.Show(ctx, "cancelled")
}

// told says what a service answers.
func told(b *bench.Bench, name string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &status{ResponseWriter: w}
		h.ServeHTTP(s, r)
		b.Say("%-8s %-9s %d %s", name, r.URL.Path, s.code, http.StatusText(s.code))
	})
}

type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// network is what lies before a service, and may lose a request and deliver it late.
type network struct {
	to http.Handler

	mu     sync.Mutex
	losing bool
	lost   *http.Request
}

func (n *network) lose() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.losing = true
}

func (n *network) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if n.keep(r) {
		http.Error(w, "no answer", http.StatusGatewayTimeout)
		return
	}
	n.to.ServeHTTP(w, r)
}

func (n *network) keep(r *http.Request) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.losing {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	n.losing, n.lost = false, r
	n.lost.Body = io.NopCloser(bytes.NewReader(body))
	return true
}

// deliver hands the lost request to the service, which has nobody to answer any more.
func (n *network) deliver(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to.ServeHTTP(bench.Nobody(), n.lost.WithContext(ctx))
}

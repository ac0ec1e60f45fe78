// Command trip-saga books trips as a saga: the coordinator calls a hotel, an airline, a
// payment and a mail service, one after the other, and cancels what was booked where one
// fails. It brings everything along that it needs: run it with
//
//	go run ./examples/trip-saga
//
// The interesting parts are trip.go, trip.yaml and services.go.
package main

import (
	"context"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/tm"
)

func main() { bench.Main("trip-saga", stage) }

// world is the four services on a bench.
type world struct {
	b       *bench.Bench
	airline *service
	land    func() // takes the airline's offer back
}

func stage(ctx context.Context, b *bench.Bench) error {
	w, err := open(ctx, b)
	if err != nil {
		return err
	}
	b.Title("A trip, written in Go")
	if err := w.booked(ctx, trip("anna")); err != nil {
		return err
	}
	b.Title("The same trip, from trip.yaml")
	again, err := saga.ParseYAML(tripYAML)
	if err != nil {
		return err
	}
	if err := w.booked(ctx, again); err != nil {
		return err
	}
	b.Title("Once more, and the money is gone")
	_, err = again.Run(ctx, b.Tx)
	cause, err := b.Undone(ctx, err)
	if err != nil {
		return err
	}
	b.Say("rolled back: %v", cause)
	if err := b.Show(ctx, "compensated"); err != nil {
		return err
	}
	return w.goesOn(ctx)
}

func (w *world) booked(ctx context.Context, d *saga.Definition) error {
	if _, err := d.Run(ctx, w.b.Tx, tm.WithWaitSettled()); err != nil {
		return err
	}
	return w.b.Show(ctx, "booked")
}

// goesOn has the caller leave right after it has submitted, while the airline is down.
func (w *world) goesOn(ctx context.Context) error {
	w.b.Title("A trip while the airline is down, and the caller goes home after Submit")
	w.land()
	caller, err := w.b.Dial("caller")
	if err != nil {
		return err
	}
	id, err := trip("bert").Submit(ctx, tm.New(caller))
	if err != nil {
		return err
	}
	if err := caller.Close(); err != nil {
		return err
	}
	w.b.Say("submitted, and the caller is gone; now the airline comes back")
	if err := w.attach(w.airline.places("airline"), &w.land); err != nil {
		return err
	}
	// Anybody who has the XID may wait.
	if err := w.b.Tx.Wait(ctx, id, tm.WithWaitSettled()); err != nil {
		return err
	}
	return w.b.Show(ctx, "booked")
}

func open(ctx context.Context, b *bench.Bench) (*world, error) {
	w := &world{b: b, land: func() {}}
	const taken = `SELECT format('%s of %s taken', count(guest), count(*)) FROM place`
	for _, d := range []bench.Database{
		{Name: "hotel", Look: taken, Schema: `CREATE TABLE place (id text PRIMARY KEY, price int, guest text, booking text);
			INSERT INTO place SELECT 'room-' || n, 120 FROM generate_series(1, 3) n`},
		{Name: "airline", Look: taken, Schema: `CREATE TABLE place (id text PRIMARY KEY, price int, guest text, booking text);
			INSERT INTO place SELECT 'seat-' || n, 80 FROM generate_series(1, 9) n`},
		{Name: "payment", Look: `SELECT string_agg(guest || ' ' || balance, ', ' ORDER BY guest) FROM account`,
			Schema: `CREATE TABLE account (guest text PRIMARY KEY, balance int); INSERT INTO account VALUES ('anna', 500), ('bert', 200)`},
		{Name: "mail", Look: `SELECT format('%s sent', count(*)) FROM mail`,
			Schema: `CREATE TABLE mail (guest text, text text)`},
	} {
		made, err := b.Database(ctx, d)
		if err != nil {
			return nil, err
		}
		pool, err := b.Plain(ctx, made)
		if err != nil {
			return nil, err
		}
		s, detach := &service{db: pool, log: b.Log()}, func() {}
		switch d.Name {
		case "payment":
			err = w.attach(s.payments(), &detach)
		case "mail":
			err = w.attach(s.mails(), &detach)
		case "airline":
			w.airline = s
			err = w.attach(s.places(d.Name), &w.land)
		default:
			err = w.attach(s.places(d.Name), &detach)
		}
		if err != nil {
			return nil, err
		}
	}
	return w, nil
}

// attach offers the functions of a service to the coordinator.
func (w *world) attach(g *handlers.Group, detach *func()) (err error) {
	*detach, err = g.Attach(w.b.Coordinator)
	return err
}

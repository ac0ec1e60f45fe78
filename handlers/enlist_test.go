package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

func courier() *saga.Definition {
	return saga.New("delivery").
		Step("a", at("do"), saga.Compensate(at("undo"))).
		Step("b", at("do"), saga.Compensate(at("undo")), saga.Input("${steps.a.id}"))
}

// order enlists a saga, and reserves afterwards.
func (co *company) order(ctx context.Context) error {
	if err := courier().Enlist(ctx, co.m); err != nil {
		return err
	}
	_, err := tcc.Call(ctx, co.m, tcc.Branch{Name: "stock", Confirm: at("confirm"), Cancel: at("cancel")},
		func(context.Context, target.Identity) ([]byte, error) { return nil, co.note("stock", "try") })
	return err
}

// seen gives what was called. The last calls, so many of them, go out together; these it
// sorts.
func (co *company) seen(together int) []string {
	co.mu.Lock()
	defer co.mu.Unlock()
	slices.Sort(co.calls[max(0, len(co.calls)-together):])
	return co.calls
}

func TestASagaIsAPartOfATransaction(t *testing.T) {
	t.Parallel()
	busy := errors.New("busy")
	refused := fmt.Errorf("no courier: %w", handlers.ErrFailed)
	for name, tt := range map[string]struct {
		fails    map[string]error
		after    error // of fn, after all is enlisted
		opts     []tm.Option
		want     error
		why      string
		calls    []string
		together int
	}{
		"all succeed": {
			calls: []string{"try", "do:a::", `do:b:"a":`, "confirm:stock::"},
		},
		"a step fails for good": {
			fails: map[string]error{"b": refused}, want: tm.ErrRolledBack, why: "(b voted no): no courier: failed for good",
			calls: []string{"try", "do:a::", `do:b:"a":`, "cancel:stock::", `undo:a::{"id":"a"}`, `undo:b:"a":`}, together: 3,
		},
		"the function fails, so no step is called": {
			after: busy, want: busy, why: "(requested): busy",
			calls: []string{"try", "cancel:stock::"},
		},
		"a step is not through in time": {
			fails: map[string]error{"a": handlers.ErrNotYet}, opts: []tm.Option{tm.WithTimeout(3 * time.Second)},
			want: tm.ErrTimedOut, why: "(timeout): deadline ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			co := newCompany(t)
			for step, err := range tt.fails {
				co.fail(step, err)
			}
			var id xid.ID
			err := co.m.Do(t.Context(), func(ctx context.Context) error {
				id, _ = xid.FromContext(ctx)
				return errors.Join(co.order(ctx), tt.after)
			}, append(tt.opts, tm.WithWaitSettled())...)
			if !errors.Is(err, tt.want) || (tt.want != nil && !errors.Is(err, tm.ErrRolledBack)) || errors.Is(err, tm.ErrNotSettled) {
				t.Errorf("got %v", err)
			}
			if want := "transaction " + id.String() + ": rolled back " + tt.why; err != nil && (len(err.Error()) < len(want) || err.Error()[:len(want)] != want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if got := co.seen(tt.together); tt.calls != nil && !slices.Equal(got, tt.calls) {
				t.Errorf("calls %q, want %q", got, tt.calls)
			}
		})
	}
}

func TestASagaCanBeEnlistedTwice(t *testing.T) {
	t.Parallel()
	co := newCompany(t)
	d := courier()
	if err := co.m.Do(t.Context(), func(ctx context.Context) error {
		return errors.Join(d.Enlist(ctx, co.m), d.Enlist(ctx, co.m))
	}, tm.WithWaitSettled()); err != nil {
		t.Fatal(err)
	}
	if got := co.seen(4); !slices.Equal(got, []string{"do:a::", "do:a::", `do:b:"a":`, `do:b:"a":`}) {
		t.Errorf("calls %q", got)
	}
}

package tc_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
)

// What is forced to disk is what was registered or submitted, and the decision; and
// votes that nobody but their caller knows, as of a Try. Begins, other votes, results,
// and that something is done are forced only by who is told of them: the next step,
// which is called because of a result, and who waits for the end.
func TestForcedWritesOfEachMode(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		forced uint64 // by one transaction
		run    func(ctx context.Context, m *tm.Manager, url string) error
	}{
		"a saga of two steps at once": {2, func(ctx context.Context, m *tm.Manager, url string) error {
			_, err := twoSteps(url).Parallel().Run(ctx, m)
			return err
		}},
		"a saga of two steps": {3, func(ctx context.Context, m *tm.Manager, url string) error {
			_, err := twoSteps(url).Run(ctx, m)
			return err
		}},
		"a saga of two steps, and until it is over": {3, func(ctx context.Context, m *tm.Manager, url string) error {
			_, err := twoSteps(url).Run(ctx, m, tm.WithWaitSettled())
			return err
		}},
		"two branches of TCC, and until they are confirmed": {6, func(ctx context.Context, m *tm.Manager, url string) error {
			return m.Do(ctx, twoTries(m, url), tm.WithWaitSettled())
		}},
		"a message to two": {1, func(ctx context.Context, m *tm.Manager, url string) error {
			_, err := message.New("m").To(target.HTTP(url+"/a")).To(target.HTTP(url+"/b")).Send(ctx, m)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, err := pebblestore.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			services := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			t.Cleanup(services.Close)
			r := start(t, "", func(c *tc.Config) { c.Store = st })
			m := tm.New(r.dial(t, client.WithName("forced")))
			if err := tt.run(limited(t), m, services.URL); err != nil { // the session is made
				t.Fatal(err)
			}
			const times = 10
			before := st.Flushes()
			for range times {
				if err := tt.run(limited(t), m, services.URL); err != nil {
					t.Fatal(err)
				}
			}
			if n := st.Flushes() - before; n != times*tt.forced {
				t.Errorf("%d forced writes in %d transactions, want %d each", n, times, tt.forced)
			}
		})
	}
}

func twoTries(m *tm.Manager, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		for range 2 {
			b := tcc.Branch{Confirm: target.HTTP(url + "/confirm"), Cancel: target.HTTP(url + "/cancel")}
			if _, err := tcc.Call(ctx, m, b, tcc.Post(nil, url+"/try", nil)); err != nil {
				return err
			}
		}
		return nil
	}
}

func twoSteps(url string) *saga.Definition {
	return saga.New("two").Step("one", target.HTTP(url+"/one"), saga.Compensate(target.HTTP(url+"/not-one"))).
		Step("two", target.HTTP(url+"/two"), saga.Compensate(target.HTTP(url+"/not-two")))
}

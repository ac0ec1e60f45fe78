package dtm

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/xid"
)

// nowhere is where calls get lost.
type nowhere struct{}

func (nowhere) Settle(core.Settle)       {}
func (nowhere) AskVote(core.AskVote)     {}
func (nowhere) Call(core.Call)           {}
func (nowhere) Changed(core.Transaction) {}

// A client that gave up and asks again meets the transaction that it has begun, however
// long that took to be written.
func TestClientThatGaveUpFindsItsTransaction(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	st, err := pebblestore.Open(t.TempDir(), pebblestore.WithLogger(log))
	if err != nil {
		t.Fatal(err)
	}
	eng, err := engine.New(t.Context(), st, engine.Config{Log: log, CrashPoint: func(point string) {
		if point == engine.BeforeWrite {
			time.Sleep(20 * time.Millisecond) // a slow disk
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	eng.Start(nowhere{})
	t.Cleanup(func() {
		if err := eng.Close(); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	svc := newService(eng, st)
	for _, test := range []struct {
		gid string
		ask func(context.Context, *request) error
		r   request
	}{
		{"a", svc.prepare, request{Type: tcc}},
		{"b", svc.submit, request{Type: saga, Steps: []map[string]string{{"action": "http://a/b"}}, Payloads: [][]byte{nil}}},
		{"c", svc.prepare, request{Type: msg, QueryPrepared: "http://a/b"}},
		{"d", func(ctx context.Context, r *request) error { _, err := svc.prepareWorkflow(ctx, r); return err },
			request{Type: workflow, QueryPrepared: "http://a/b", CustomData: `{"name":"w"}`}},
	} {
		t.Run(string(test.r.Type), func(t *testing.T) {
			t.Parallel()
			test.r.Gid, test.r.Protocol = test.gid, "http"
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			_ = test.ask(gone, &test.r) // nobody hears that
			if err := test.ask(t.Context(), &test.r); err != nil {
				t.Fatal(err)
			}
			all, _, err := eng.List(t.Context(), xid.ID{}, 10, func(tx *core.Transaction) bool { return tx.Key == test.gid })
			if err != nil || len(all) != 1 {
				t.Errorf("there are %d transactions for one gid, %v: %v", len(all), err, all)
			}
		})
	}
}

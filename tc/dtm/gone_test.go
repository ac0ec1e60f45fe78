package dtm

import (
	"context"
	"log/slog"
	"sync"
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

// onSlowDisk is a service whose transactions take a while to be written.
func onSlowDisk(t *testing.T, change ...func(*engine.Config)) *service {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := pebblestore.Open(t.TempDir(), pebblestore.WithLogger(log))
	if err != nil {
		t.Fatal(err)
	}
	cfg := engine.Config{Log: log, CrashPoint: func(point string) {
		if point == engine.BeforeWrite {
			time.Sleep(20 * time.Millisecond)
		}
	}}
	for _, c := range change {
		c(&cfg)
	}
	eng, err := engine.New(t.Context(), st, cfg)
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
	return newService(eng, st)
}

// of gives the transactions that were begun under a gid.
func (s *service) of(t *testing.T, gid string) []core.Transaction {
	t.Helper()
	all, _, err := s.eng.List(t.Context(), xid.ID{}, 10, func(tx *core.Transaction) bool { return tx.Key == gid })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A client that gave up and asks again meets the transaction that it has begun, however
// long that took to be written.
func TestClientThatGaveUpFindsItsTransaction(t *testing.T) {
	t.Parallel()
	svc := onSlowDisk(t)
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
			if all := svc.of(t, test.gid); len(all) != 1 {
				t.Errorf("there are %d transactions for one gid: %v", len(all), all)
			}
		})
	}
}

// Where a crash came between the begin and the branches of one request, the next that
// says the same hands them over.
func TestSubmitGoesOnWithWhatWasBegun(t *testing.T) {
	t.Parallel()
	svc := onSlowDisk(t)
	r := &request{Gid: "g", Type: saga, Protocol: "http", Steps: []map[string]string{{"action": "http://a/b"}}, Payloads: [][]byte{nil}}
	id, now := svc.eng.NewXID()
	n := r.note()
	begin, err := r.begin(id, now.Add(submitPatience), &n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.ask(t.Context(), func(ref core.Ref) core.Input { begin.Ref = ref; return begin }); err != nil {
		t.Fatal(err)
	}
	other := *r
	other.Payloads = [][]byte{[]byte("other")}
	if err := svc.submit(t.Context(), &other); refusalOf(err).kind != failure {
		t.Errorf("with other content: got %v", err)
	}
	for range 2 { // the second joins it
		if err := svc.submit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	all := svc.of(t, "g")
	if len(all) != 1 || all[0].XID != id || !all[0].Submitted || len(all[0].Branches) != 1 {
		t.Errorf("%v; want %s, submitted, with one branch", all, id)
	}
}

// The same for a workflow: another one would be called back for ever, and be refused each
// time.
func TestAWorkflowGoesOnWithItsOwnBeginOnly(t *testing.T) {
	t.Parallel()
	svc := onSlowDisk(t)
	r := &request{Gid: "g", Type: workflow, Protocol: "http", QueryPrepared: "http://a/b", CustomData: `{"name":"w","data":"aW4="}`}
	id, now := svc.eng.NewXID()
	n := r.note()
	begin, err := r.begin(id, now.Add(submitPatience), &n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.ask(t.Context(), func(ref core.Ref) core.Input { begin.Ref = ref; return begin }); err != nil {
		t.Fatal(err)
	}
	for _, custom := range []string{`{"name":"other","data":"aW4="}`, `{"name":"w","data":"aW5u"}`} {
		other := *r
		other.CustomData = custom
		if _, err := svc.prepareWorkflow(t.Context(), &other); err == nil || refusalOf(err).kind != failure {
			t.Errorf("%s: got %v", custom, err)
		}
	}
	if _, err := svc.prepareWorkflow(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	all := svc.of(t, "g")
	if len(all) != 1 || all[0].XID != id || !all[0].Submitted || len(all[0].Branches) != 1 || all[0].Branches[0].Plan.Forward.Verb != "w" {
		t.Errorf("%v; want %s, submitted, with a call back of w", all, id)
	}
}

// Where the queue of its shard is full between the begin and the branches, whoever asks
// again meets what was begun, and begins nothing beside it.
func TestGidIsBegunOnceAlthoughTheQueueIsFull(t *testing.T) {
	t.Parallel()
	writes, goOn := make(chan struct{}, 100), make(chan struct{})
	svc := onSlowDisk(t, func(c *engine.Config) {
		c.Shards, c.Queue = 1, 1
		c.CrashPoint = func(point string) {
			if point == engine.BeforeWrite {
				writes <- struct{}{}
				<-goOn
			}
		}
	})
	id, now := svc.eng.NewXID()
	if err := svc.eng.SubmitWait(t.Context(), core.Begin{Ref: nobody{}, XID: id, Deadline: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	<-writes
	var asking sync.WaitGroup
	ask := func() {
		asking.Go(func() {
			r := &request{Gid: "g", Type: saga, Protocol: "http", Steps: []map[string]string{{"action": "http://a/b"}}, Payloads: [][]byte{nil}}
			_ = svc.submit(t.Context(), r) // the first is refused
		})
		time.Sleep(50 * time.Millisecond)
	}
	ask()              // there is room for the begin, and none for the branches
	goOn <- struct{}{} // the begin is on its way into the log
	<-writes
	ask()
	close(goOn)
	asking.Wait()
	if all := svc.of(t, "g"); len(all) != 1 {
		t.Errorf("there are %d transactions for one gid: %v", len(all), all)
	}
}

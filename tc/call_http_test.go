package tc_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// participant is a service that knows nothing of Handfast but its headers.
type participant struct {
	*httptest.Server
	mu     sync.Mutex
	seen   []string
	status map[string]int    // by path; 200 unless set
	answer map[string]string // by path
}

func newParticipant(tb testing.TB) *participant {
	tb.Helper()
	p := &participant{status: map[string]int{}, answer: map[string]string{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen = append(p.seen, r.URL.Path+" "+r.Header.Get("Handfast-Action")+" "+string(body))
		if s := p.status[r.URL.Path]; s != 0 {
			w.WriteHeader(s)
		}
		_, _ = io.WriteString(w, p.answer[r.URL.Path])
	}))
	tb.Cleanup(p.Close)
	return p
}

func (p *participant) step(n int, after ...int) *pb.RegisterBranchRequest {
	b := mkStep(n, after...)
	path := p.URL + "/" + b.GetName()
	b.Plan.Forward = &pb.Action{Url: path + "/do", Payload: b.GetPlan().GetForward().GetPayload()}
	b.Plan.Rollback = &pb.Action{Url: path + "/undo"}
	return b
}

func TestASagaOverHTTP(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		set     func(*participant)
		outcome pb.Outcome
		seen    []string
	}{
		"commits": {
			func(p *participant) { p.answer["/step-1/do"] = `{"id": 12345678901234567890}` }, pb.Outcome_OUTCOME_COMMITTED,
			[]string{"/step-1/do forward 1", `/step-2/do forward {"booking":12345678901234567890,"text":"no 12345678901234567890"}`},
		},
		"rolls back": {
			func(p *participant) {
				p.answer["/step-1/do"] = `{"id": 7}`
				p.status["/step-2/do"] = http.StatusConflict
			}, pb.Outcome_OUTCOME_ROLLED_BACK,
			[]string{"/step-1/do forward 1", `/step-2/do forward {"booking":7,"text":"no 7"}`, "/step-2/undo rollback ", "/step-1/undo rollback "},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newParticipant(t)
			tt.set(p)
			r := start(t, t.TempDir())
			c := pb.NewCoordinatorClient(r.conn(t))
			begun, err := c.Begin(limited(t), &pb.BeginRequest{})
			if err != nil {
				t.Fatal(err)
			}
			two := p.step(2, 1)
			two.Plan.Forward.Payload = []byte(`{"booking":"${steps.step-1.id}","text":"no ${steps.step-1.id}"}`)
			if _, err := c.Submit(limited(t), &pb.SubmitRequest{Xid: begun.GetXid(), Branches: []*pb.RegisterBranchRequest{p.step(1), two}}); err != nil {
				t.Fatal(err)
			}
			got, err := c.Commit(limited(t), &pb.CommitRequest{Xid: begun.GetXid(), WaitSettled: true})
			if err != nil || got.GetOutcome() != tt.outcome {
				t.Fatalf("%v, %v", got, err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.seen) != len(tt.seen) {
				t.Fatalf("calls %q, want %q", p.seen, tt.seen)
			}
			for i := range tt.seen {
				if p.seen[i] != tt.seen[i] {
					t.Errorf("call %d: %q, want %q", i, p.seen[i], tt.seen[i])
				}
			}
		})
	}
}

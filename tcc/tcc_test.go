package tcc_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

var branch = tcc.Branch{Name: "stock", Confirm: target.HTTP("http://stock/confirm"), Cancel: target.Handler("stock", "cancel")}

func start(t *testing.T) (*tm.Manager, chan *pb.ClientFrame) {
	t.Helper()
	frames := make(chan *pb.ClientFrame, 64)
	tc := faketc.Start(t)
	tc.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetHello() == nil {
			frames <- f
		}
		return false
	})
	c, err := client.Dial(tc.Addr(), client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return tm.New(c), frames
}

func TestCallRegistersBeforeTryAndVotesAfterIt(t *testing.T) {
	t.Parallel()
	odd := errors.New("connection reset")
	for name, c := range map[string]struct {
		result []byte
		err    error
		vote   pb.Vote // UNSPECIFIED: none
		want   string
	}{
		"done":      {result: []byte("r1"), vote: pb.Vote_VOTE_YES},
		"failed":    {err: errors.Join(errors.New("sold out"), target.ErrFailed), vote: pb.Vote_VOTE_NO, want: "sold out"},
		"unsure":    {result: []byte("x"), err: odd, want: "connection reset"},
		"too large": {result: make([]byte, client.MaxResult+1), want: `tcc "stock": the result of Try is 65537 bytes long; want at most 65536`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, frames := start(t)
			err := m.Do(t.Context(), func(ctx context.Context) error {
				<-frames // Begin
				id, _ := xid.FromContext(ctx)
				got, err := tcc.Call(ctx, m, branch, func(ctx context.Context, who target.Identity) ([]byte, error) {
					r := (<-frames).GetRegisterBranch()
					if r.GetMode() != pb.Mode_MODE_TCC || r.GetName() != "stock" || r.GetPlan().GetForward() != nil || r.GetVote() != 0 ||
						r.GetPlan().GetCommit().GetUrl() == "" || r.GetPlan().GetRollback().GetHandler() != "cancel" {
						t.Errorf("registered %v", r)
					}
					if _, ok := xid.FromContext(ctx); ok || who.XID != id || who.Branch.String() != r.GetBranchId() || who.Action != target.Forward {
						t.Errorf("called as %v, %v", who, ok)
					}
					return c.result, c.err
				})
				if err == nil && string(got) != string(c.result) {
					t.Errorf("got %q", got)
				}
				return err
			})
			f := <-frames
			if c.vote != 0 {
				if v := f.GetVote(); v.GetVote() != c.vote || string(v.GetResult()) != string(c.result) || !strings.Contains(v.GetReason(), c.want) {
					t.Errorf("voted %v", f)
				}
				f = <-frames
			}
			if c.want == "" {
				if err != nil || f.GetCommit() == nil {
					t.Errorf("got %v, then %v", err, f)
				}
			} else if !errors.Is(err, tm.ErrRolledBack) || !strings.Contains(err.Error(), c.want) || f.GetRollback() == nil || !errors.Is(err, c.err) && c.err != nil {
				t.Errorf("got %v, then %v", err, f)
			}
		})
	}
}

func TestCallTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	m, _ := start(t)
	ctx := xid.NewContext(t.Context(), xid.New(xid.Parts{Counter: 1}))
	never := func(context.Context, target.Identity) ([]byte, error) { t.Error("it was tried"); return nil, nil }
	if _, err := tcc.Call(t.Context(), m, branch, never); !errors.Is(err, tcc.ErrNoTransaction) {
		t.Errorf("got %v", err)
	}
	for want, b := range map[string]tcc.Branch{
		`tcc "a b": the name "a b"; want letters`:        {Name: "a b", Cancel: branch.Cancel},
		`tcc "": confirm: there is nothing to confirm`:   {},
		`tcc "x": cancel: http: "h"; want a URL`:         {Name: "x", Cancel: target.HTTP("h")},
		`tcc "x": retry: percent is 1; want from 100 to`: {Name: "x", Cancel: branch.Cancel, Retry: target.RetryPolicy{Percent: 1}},
	} {
		if _, err := tcc.Call(ctx, m, b, never); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPostReadsTheAnswer(t *testing.T) {
	t.Parallel()
	who := target.Identity{XID: xid.New(xid.Parts{Counter: 1}), Branch: xid.NewBranchID(), Action: target.Forward}
	for status, want := range map[int]struct {
		result string
		failed bool
	}{200: {result: `{"n":1}`}, 201: {result: `{"n":1}`}, 409: {failed: true}, 500: {}, 425: {}, 304: {}, 302: {}} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if r.URL.Path != "/login" && (r.Header.Get(target.HeaderKey) != who.Key() || r.Header.Get(xid.Header) != "") {
				t.Errorf("headers %v", r.Header)
			}
			if r.URL.Path == "/login" {
				return // 200
			}
			w.Header().Set("Location", "/login")
			if status == http.StatusConflict {
				http.Error(w, "sold out", status)
				return
			}
			w.WriteHeader(status)
			_, _ = w.Write(b)
		}))
		got, err := tcc.Post(srv.Client(), srv.URL, map[string]int{"n": 1})(t.Context(), who)
		if string(got) != want.result || (err == nil) != (want.result != "") || errors.Is(err, target.ErrFailed) != want.failed {
			t.Errorf("%d: got %q, %v", status, got, err)
		}
		if want.failed && !strings.Contains(err.Error(), ": sold out: ") {
			t.Errorf("the reason is not on one line: %q", err)
		}
		srv.Close()
		if _, err := tcc.Post(nil, srv.URL, nil)(t.Context(), who); err == nil || errors.Is(err, target.ErrFailed) {
			t.Errorf("without a server: got %v", err)
		}
	}
	for _, try := range []tcc.Try{tcc.Post(nil, "http://h", func() {}), tcc.Post(nil, ":", nil)} {
		if _, err := try(t.Context(), who); !errors.Is(err, target.ErrFailed) {
			t.Errorf("got %v", err)
		}
	}
}

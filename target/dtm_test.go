package target_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// barrier is a service that does what DTM's barrier does: one row for each gid, branch,
// operation and number, made together with the effect.
type barrier struct {
	*httptest.Server
	mu     sync.Mutex
	rows   map[string]bool
	calls  []string        // all that came: gid, trans_type, branch_id, op, path
	fails  map[string]int  // by path: how often it fails after its effect
	no     map[string]bool // by path: FAILURE
	sum    int             // of what the effects are worth
	effect map[string]int  // by op
}

func newBarrier(t *testing.T) *barrier {
	t.Helper()
	b := &barrier{rows: map[string]bool{}, fails: map[string]int{}, no: map[string]bool{}, effect: map[string]int{
		"action": 1, "compensate": -1, "try": 1, "confirm": 10, "cancel": -1,
	}}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		defer b.mu.Unlock()
		q := r.URL.Query()
		path := r.URL.Path + " " + r.Method
		if x := q.Get("x"); x != "" {
			path += " " + x
		}
		if len(body) > 0 {
			path += " " + string(body)
		}
		b.calls = append(b.calls, strings.Join([]string{q.Get("gid"), q.Get("trans_type"), q.Get("branch_id"), q.Get("op"), path}, "|"))
		for name := range r.Header {
			if strings.HasPrefix(name, "Handfast-") {
				t.Errorf("%s came with the header %s", path, name)
			}
		}
		for _, name := range []string{"gid", "trans_type", "branch_id", "op"} {
			if len(q[name]) != 1 || q.Get(name) == "" {
				t.Errorf("%s: %s is %q", path, name, q[name])
			}
		}
		if b.no[r.URL.Path] {
			http.Error(w, `{"dtm_result":"FAILURE","message":"none left"}`, http.StatusConflict)
			return
		}
		b.call(q)
		if b.fails[r.URL.Path] > 0 {
			b.fails[r.URL.Path]--
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, `{"dtm_result":"SUCCESS"}`)
	}))
	t.Cleanup(b.Close)
	return b
}

// call makes the effect of an operation once, and that of an undoing only after what it
// undoes.
func (b *barrier) call(q url.Values) {
	op := q.Get("op")
	insert := func(op string) bool {
		key := strings.Join([]string{q.Get("gid"), q.Get("branch_id"), op, "01"}, "|")
		was := b.rows[key]
		b.rows[key] = true
		return !was
	}
	origin := map[string]string{"cancel": "try", "compensate": "action"}[op]
	null := origin != "" && insert(origin)
	if insert(op) && !null {
		b.sum += b.effect[op]
	}
}

// want compares all calls, which have to name the transaction. b0 is the branch of the
// first one, b1 the next branch.
func (b *barrier) want(t *testing.T, id xid.ID, sum int, calls ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var got, branches []string
	for _, c := range b.calls {
		parts := strings.SplitN(c, "|", 5)
		n := slices.Index(branches, parts[2])
		if n < 0 {
			if _, err := xid.ParseBranchID(parts[2]); err != nil {
				t.Errorf("the branch %q: %v", parts[2], err)
			}
			n, branches = len(branches), append(branches, parts[2])
		}
		if parts[0] != id.String() {
			t.Errorf("gid %q, want %s", parts[0], id)
		}
		got = append(got, fmt.Sprintf("%s b%d %s %s", parts[1], n, parts[3], parts[4]))
	}
	if !slices.Equal(got, calls) {
		t.Errorf("the calls are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(calls, "\n"))
	}
	if b.sum != sum {
		t.Errorf("the effects are worth %d, want %d", b.sum, sum)
	}
}

func manager(t *testing.T) *tm.Manager {
	t.Helper()
	return tm.New(hftest.Dial(t, hftest.Coordinator(t)))
}

var soon = target.RetryPolicy{First: time.Millisecond, Max: 10 * time.Millisecond}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hftest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestASagaOverServicesOfDTM(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fails map[string]int
		no    string
		sum   int
		calls []string
	}{
		"commits, with an answer lost": {
			fails: map[string]int{"/out": 1}, sum: 2,
			calls: []string{"saga b0 action /out POST 1 {\"n\":30}", "saga b0 action /out POST 1 {\"n\":30}", "saga b1 action /a/../in GET ${own}"},
		},
		"rolls back": {
			fails: map[string]int{"/out/undo": 1}, no: "/a/../in", sum: 0,
			calls: []string{
				"saga b0 action /out POST 1 {\"n\":30}", "saga b1 action /a/../in GET ${own}",
				"saga b1 compensate /in/undo GET",
				"saga b0 compensate /out/undo POST {\"n\":30}", "saga b0 compensate /out/undo POST {\"n\":30}",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBarrier(t)
			b.no[c.no] = true
			for path, n := range c.fails {
				b.fails[path] = n
			}
			payload := target.Payload(map[string]int{"n": 30})
			id, err := saga.New("transfer").Retry(soon).
				Step("out", target.HTTP(b.URL+"/out?x=1", payload, target.DTM()), saga.Compensate(target.HTTP(b.URL+"/out/undo", payload, target.DTM()))).
				Step("in", target.HTTP(b.URL+"/a/../in?x=${own}", target.DTM()), saga.Compensate(target.HTTP(b.URL+"/in/undo", target.DTM()))).
				Run(limited(t), manager(t), tm.WithWaitSettled())
			if c.no == "" && err != nil {
				t.Fatal(err)
			}
			if c.no != "" && (!errors.Is(err, tm.ErrRolledBack) || !strings.Contains(err.Error(), "url:"+b.URL+"/a/../in?x=${own} return failed: ") || !strings.Contains(err.Error(), "none left")) {
				t.Fatalf("got %v", err)
			}
			b.want(t, id, c.sum, c.calls...)
		})
	}
}

func TestTCCOverServicesOfDTM(t *testing.T) {
	t.Parallel()
	broke := errors.New("no money")
	for name, c := range map[string]struct {
		err   error
		try   bool
		sum   int
		calls []string
	}{
		"confirmed":            {nil, true, 11, []string{"tcc b0 try /try GET", "tcc b0 confirm /confirm POST {}", "tcc b0 confirm /confirm POST {}"}},
		"cancelled":            {broke, true, 0, []string{"tcc b0 try /try GET", "tcc b0 cancel /cancel POST {}"}},
		"cancelled before Try": {broke, false, 0, []string{"tcc b0 cancel /cancel POST {}"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBarrier(t)
			b.fails["/confirm"] = 1
			m := manager(t)
			var id xid.ID
			err := m.Do(limited(t), func(ctx context.Context) error {
				id, _ = xid.FromContext(ctx)
				_, err := tcc.Call(ctx, m, tcc.Branch{
					Name: "stock", Retry: soon,
					Confirm: target.HTTP(b.URL+"/confirm", target.Payload([]byte("{}")), target.DTM()),
					Cancel:  target.HTTP(b.URL+"/cancel", target.Payload([]byte("{}")), target.DTM()),
				}, func(ctx context.Context, who target.Identity) ([]byte, error) {
					if !c.try {
						return nil, broke
					}
					q := url.Values{"gid": {who.XID.String()}, "branch_id": {who.Branch.String()}, "trans_type": {"tcc"}, "op": {"try"}}
					r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL+"/try?"+q.Encode(), http.NoBody)
					if err != nil {
						return nil, err
					}
					resp, err := http.DefaultClient.Do(r)
					if err != nil {
						return nil, err
					}
					return nil, resp.Body.Close()
				})
				return errors.Join(err, c.err)
			}, tm.WithWaitSettled())
			if (c.err == nil) != (err == nil) || c.err != nil && !errors.Is(err, c.err) {
				t.Fatalf("got %v", err)
			}
			b.want(t, id, c.sum, c.calls...)
		})
	}
}

func TestAMessageToServicesOfDTM(t *testing.T) {
	t.Parallel()
	for name, dropped := range map[string]bool{"delivered": false, "dropped": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBarrier(t)
			b.no["/placed"], b.fails["/mail"] = dropped, 1
			m := manager(t)
			p, err := message.New("order placed").Retry(soon).To(target.HTTP(b.URL+"/mail", target.Payload([]byte("hi")), target.DTM())).
				Prepare(limited(t), m, message.CheckBack(target.HTTP(b.URL+"/placed?x=7", target.DTM()), 0))
			if err != nil {
				t.Fatal(err)
			}
			err = m.Wait(limited(t), p.XID, tm.WithWaitSettled())
			if !dropped {
				if err != nil {
					t.Fatal(err)
				}
				b.want(t, p.XID, 1, "msg b0 msg /placed GET 7", "msg b1 action /mail POST hi", "msg b1 action /mail POST hi")
				return
			}
			if !errors.Is(err, tm.ErrRolledBack) {
				t.Fatalf("got %v", err)
			}
			b.want(t, p.XID, 0, "msg b0 msg /placed GET 7")
		})
	}
}

// What is called as DTM would is shown as such.
func TestTheDialectIsShown(t *testing.T) {
	t.Parallel()
	b := newBarrier(t)
	m := manager(t)
	id, err := saga.New("s").Step("a", target.HTTP(b.URL, target.DTM()), saga.Compensate(target.HTTP(b.URL))).Run(limited(t), m)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := m.Get(limited(t), id)
	if err != nil {
		t.Fatal(err)
	}
	p := tx.GetBranches()[0].GetPlan()
	if d, u := p.GetForward().GetDialect().String(), p.GetRollback().GetDialect().String(); d != "DIALECT_DTM" || u != "DIALECT_UNSPECIFIED" {
		t.Errorf("got %s and %s", d, u)
	}
}

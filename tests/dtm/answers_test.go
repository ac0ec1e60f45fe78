package dtm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/dtm-labs/client/dtmgrpc/dtmgimp"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// tell makes one request of the client's, whatever the client's own order of them is.
func (w *world) tell(p protocol, operation, kind, gid string) error {
	api := map[protocol]string{overHTTP: w.HTTP, overJSONRPC: w.JSONRPC, overGRPC: w.GRPC}[p]
	b := dtmimp.NewTransBase(gid, kind, api, "")
	if p == overGRPC {
		return dtmgimp.DtmGrpcCall(b, strings.ToUpper(operation[:1])+operation[1:])
	}
	if p == overJSONRPC {
		b.Protocol = string(p)
	}
	return dtmimp.TransCallDtm(b, operation)
}

// post makes a request that no client makes, but an operator.
func (w *world) post(path string, body any) (status int) {
	w.t.Helper()
	text, err := json.Marshal(body)
	check(w.t, err)
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.HTTP+path, bytes.NewReader(text))
	check(w.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	check(w.t, err)
	check(w.t, resp.Body.Close())
	return resp.StatusCode
}

func TestRequestsFollowTheStateOfTheirTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		for _, c := range []struct {
			kind, requests string // those that are refused have a "!"
			status         string
		}{
			{"tcc", "prepare prepare submit", "succeed"},
			{"tcc", "prepare submit submit! prepare! abort!", "succeed"},
			{"tcc", "prepare abort abort! submit! prepare!", "failed"},
			{"tcc", "abort!", "unknown"},
			{"tcc", "submit submit!", "succeed"}, // it has no branches
			{"xa", "prepare prepare submit submit!", "succeed"},
			{"xa", "prepare abort abort! submit!", "failed"},
			{"msg", "prepare prepare submit submit! abort!", "succeed"},
			{"msg", "prepare abort abort! submit! prepare!", "failed"},
			{"msg", "abort!", "unknown"},
			{"saga", "submit submit! abort!", "succeed"},
			{"saga", "abort!", "unknown"},
			{"cake", "submit! prepare!", "unknown"},
		} {
			w.t.Run(c.kind+" "+c.requests, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				gid := w.gid(p)
				for request := range strings.FieldsSeq(c.requests) {
					operation, refused := strings.CutSuffix(request, "!")
					if err := w.tell(p, operation, c.kind, gid); refused != (err != nil) {
						t.Fatalf("%s: got error %v", request, err)
					}
					if status := w.query(gid).status(); operation == "submit" && status == "submitted" {
						w.reaches(gid, c.status) // or else the next request comes in between
					} else if operation == "abort" && status == "aborting" {
						w.reaches(gid, c.status)
					}
				}
				equal(t, "status", w.query(gid).status(), c.status)
			})
		}
	})
}

func TestBranchesAreRegisteredOnlyWhileTheirTransactionIsOpen(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		var late func(string) error
		check(t, w.tcc(p, gid, nil, func(try func(string) error) error {
			late = try
			return try("out")
		}))
		w.reaches(gid, "succeed")
		if err := late("in"); err == nil {
			t.Fatal("registered after the end")
		}
		same(t, "calls", w.log(), []string{"out try", "out confirm"})
		w.ends(gid, "succeed", "01 cancel prepared", "01 confirm succeed")
	})
}

func TestForceStopEndsATransaction(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "an attempt that was under way takes the stop back, with its embedded store")
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", always(dtmcli.ErrOngoing))
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 1 }, "out", "in", "tell"))
		w.called("in action", 1)
		equal(t, "answer", w.post("/forceStop", map[string]string{"gid": gid}), http.StatusOK)
		w.reaches(gid, "failed")
		equal(t, "answer the second time", w.post("/forceStop", map[string]string{"gid": gid}), http.StatusConflict)
		equal(t, "answer about nothing", w.post("/forceStop", map[string]string{"gid": gid + "x"}), http.StatusInternalServerError)
		equal(t, "calls of what comes after", len(w.all("tell action")), 0)
	})
}

func TestResetNextCronTimeTriesAtOnce(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "does nothing with its embedded store, whose index stays as it was")
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("out action", answer(errDown, errDown))
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 3600 }, "out"))
		w.called("out action", 1)
		eventually(t, func() error { // an attempt may still be under way
			if s := w.post("/resetNextCronTime", map[string]string{"gid": gid}); s != http.StatusOK {
				return fmt.Errorf("answer %d", s)
			}
			if s := w.query(gid).status(); s != "succeed" {
				return fmt.Errorf("status %s", s)
			}
			return nil
		})
		equal(t, "calls", len(w.all("out action")), 3)
	}, bothWays...)
}

func TestTransactionsAreListedNewestFirst(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "lists by gid with its embedded store")
	w := newWorldToKill(t) // where there are no others
	var want []string
	for range 5 {
		gid := w.gid(overHTTP)
		check(t, w.saga(overHTTP, gid, waiting, "out"))
		want = append([]string{gid}, want...)
	}
	var got []string
	for position, pages := "", 0; pages == 0 || position != ""; pages++ {
		var page struct {
			Transactions []struct{ Gid, Status string }
			NextPosition string `json:"next_position"`
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.HTTP+"/all?limit=2&position="+position, http.NoBody)
		check(t, err)
		resp, err := http.DefaultClient.Do(req)
		check(t, err)
		check(t, json.NewDecoder(resp.Body).Decode(&page))
		check(t, resp.Body.Close())
		if len(page.Transactions) > 2 || pages > 5 {
			t.Fatalf("page %d has %d", pages, len(page.Transactions))
		}
		for _, x := range page.Transactions {
			got = append(got, x.Gid)
			equal(t, "status", x.Status, "succeed")
		}
		position = page.NextPosition
	}
	same(t, "listed", got, want)
}

func TestGidMayHoldSigns(t *testing.T) {
	t.Parallel()
	for name, gid := range map[string]string{
		"blanks": "two words", "signs": "a/b?c=d&e=f#g%h+i", "long": strings.Repeat("x", 60), "a word of the protocol": "ONGOING",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t := w.t
				gid := gid + " " + w.gid(p)
				check(t, w.saga(p, gid, nil, "out", "in"))
				r := w.reaches(gid, "succeed")
				equal(t, "gid in the report", r.Transaction.Gid, gid)
				equal(t, "gid at the service", w.called("in action", 1).Gid, gid)
			})
		})
	}
}

// TestGidThatIsNoNameInSQLIsRefused: DTM's clients build the SQL of XA from it.
func TestGidThatIsNoNameInSQLIsRefused(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "takes any gid")
	each(t, func(w *world, p protocol) {
		for _, gid := range []string{"", "it's", `"it"`, `back\slash`, "semi;colon", "line\nfeed", "grün"} {
			if err := w.saga(p, gid, nil, "out"); err == nil {
				w.t.Errorf("gid %q was taken", gid)
			}
		}
	})
}

func TestPayloadArrivesAsItWas(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"empty": "", "quotes": "\"\\\n\t'", "letters": "grün 東京 😀", "long": strings.Repeat("x", 1<<20)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t := w.t
				w.on("out action", always(dtmcli.ErrFailure))
				gid, want := w.gid(p), text
				u := w.url(p, "out")
				if p == overGRPC {
					check(t, dtmgrpc.NewSagaGrpc(w.GRPC, gid).Add(u, u, wrapperspb.String(text)).Submit())
				} else {
					check(t, dtmcli.NewSaga(w.HTTP, gid).Add(u, u, text).Submit())
					quoted, err := json.Marshal(text)
					check(t, err)
					want = string(quoted)
				}
				w.reaches(gid, "failed")
				for _, what := range []string{"out action", "out compensate"} {
					if got := w.called(what, 1).Body; got != want {
						t.Fatalf("%s got %d bytes, %.40q, want %d, %.40q", what, len(got), got, len(want), want)
					}
				}
			}, bothWays...)
		})
	}
}

func TestSagaMayHaveManySteps(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		var names, rows, want []string
		for i := 1; i <= 120; i++ {
			names = append(names, "s"+strconv.Itoa(i))
			want = append(want, "s"+strconv.Itoa(i)+" action")
			rows = append(rows, fmt.Sprintf("%02d compensate prepared", i), fmt.Sprintf("%02d action succeed", i))
		}
		gid := w.gid(p)
		check(t, w.saga(p, gid, nil, names...))
		w.ends(gid, "succeed", rows...)
		same(t, "calls", w.log(), want)
	})
}

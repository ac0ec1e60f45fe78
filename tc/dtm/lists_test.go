package dtm_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Who names no limit gets a hundred, and where to go on.
func TestListsHaveAHundredUnlessTold(t *testing.T) {
	t.Parallel()
	w := own(t)
	const many = 101
	var all sync.WaitGroup
	for n := range many {
		all.Go(func() {
			name := fmt.Sprintf("list-%d", n)
			for _, r := range [][3]string{
				{http.MethodPost, "/api/dtmsvr/prepare", marshal(t, trans(name, "tcc"))},
				{http.MethodGet, "/api/dtmsvr/subscribe?url=http://h/&topic=" + name, ""},
			} {
				if a, err := w.try(context.Background(), r[0], r[1], r[2]); err != nil || a.status != http.StatusOK {
					t.Errorf("%s: got %+v, %v", name, a, err)
				}
			}
		})
	}
	all.Wait()
	type list struct {
		Transactions, KV []object
		Next             string `json:"next_position"`
	}
	for _, what := range []string{"all", "scanKV"} {
		l := read[list](t, w.get(t, what, "cat", "topics").want(t, 200))
		if n := len(l.Transactions) + len(l.KV); n != many-1 || l.Next == "" {
			t.Errorf("%s: %d, and then %q", what, n, l.Next)
		}
		l = read[list](t, w.get(t, what, "cat", "topics", "position", l.Next).want(t, 200))
		if n := len(l.Transactions) + len(l.KV); n != 1 || l.Next != "" {
			t.Errorf("the rest of %s: %d, and then %q", what, n, l.Next)
		}
	}
}

// What goes to all subscribers of a topic has to fit into one transaction.
func TestTooManySubscribers(t *testing.T) {
	t.Parallel()
	topic := "topic-" + shared.gid(t)
	for n := range 250 {
		shared.get(t, "subscribe", "topic", topic, "url", fmt.Sprintf("http://h/%d", n)).ok(t)
	}
	shared.get(t, "subscribe", "topic", topic, "url", "http://h/more").want(t, 500, "250 subscribers")
	// The same one with another remark is the same one.
	shared.get(t, "subscribe", "topic", topic, "url", "http://h/1", "remark", "x").want(t, 500, "this url exists")
}

// Requests have room for 4 MiB, which is what gRPC lets clients send and take.
func TestRequestsOfFourMebibytes(t *testing.T) {
	t.Parallel()
	reason := strings.Repeat("r", 4<<20-1000)
	shared.post(t, "abort", with(trans("never", "tcc"), "rollback_reason", reason)).want(t, 500, "no TransGlobal with gid: never")
	r := request("never", "tcc")
	r.RollbackReason = reason
	if _, err := shared.rpc.Abort(limited(t), r); status.Code(err) != codes.Unknown {
		t.Errorf("gRPC: got %v", err)
	}
}

// The rows stand in the order of the steps, although 100 sorts before 99.
func TestTheRowsOfAHundredSteps(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	urls := make([]string, 2*101)
	want := []string{"submitted"}
	for i := range urls {
		urls[i] = b.at("/a", "status", "425")
		want = append(want, fmt.Sprintf("%02d-%s:prepared", i/2+1, []string{"compensate", "action"}[i%2]))
	}
	shared.post(t, "submit", saga(gid, urls...)).ok(t)
	if got := shared.query(t, gid).statuses(); got != strings.Join(want, " ") {
		t.Errorf("the rows are %s", got)
	}
}

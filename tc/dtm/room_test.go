package dtm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc"
)

// Who waits for the end when the coordinator is told to stop gets it, as long as that
// comes within the drain timeout.
func TestShutdownWaitsForWhatClientsWaitFor(t *testing.T) {
	t.Parallel()
	w, err := startWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := newBranches(t)
	r := with(saga("g", b.at("/a", "hold", "a"), ""), "wait_result", true, "request_timeout", 20)
	got := make(chan answer, 1)
	go func() {
		a, err := w.try(limited(t), "POST", "/api/dtmsvr/submit", marshal(t, r))
		a.body += fmt.Sprint(err)
		got <- a
	}()
	b.called(t, "g", 1)
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	time.Sleep(2 * time.Second) // Handfast's own API, where nobody asks for anything, has ended
	b.open("a")
	if a := <-got; a.status != 200 {
		t.Errorf("got %+v", a)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Who is told to try again because there is no room can do so, with the same gid.
func TestGidCanBeSentAgainOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	w := own(t, func(c *tc.Config) { c.Engine.Core.MaxHeld = 1 << 20 })
	b := newBranches(t)
	large := strings.Repeat("x", 300<<10)
	of := func(gid, url string) object {
		return object{"gid": gid, "trans_type": "saga", "steps": []object{{"action": url}}, "payloads": []string{large}}
	}
	for _, gid := range []string{"a", "b"} {
		w.post(t, "submit", of(gid, b.at("/a", "hold", "a"))).ok(t)
	}
	w.post(t, "submit", of("c", b.at("/c"))).want(t, 503, "no room", "try again")
	w.get(t, "query", "gid", "c").want(t, 200, `"transaction":null`)
	b.open("a")
	w.await(t, "a", "succeed")
	w.await(t, "b", "succeed")
	w.post(t, "submit", of("c", b.at("/c"))).ok(t)
	w.await(t, "c", "succeed")
}

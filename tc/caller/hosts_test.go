package caller_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
)

// nobody is one of many addresses of this machine where nothing listens.
func nobody(n int) string { return fmt.Sprintf("127.9.%d.%d:1", n/250, n%250+1) }

// Hosts are as many as those who submit think of. What is remembered of each must
// not outlive its calls, or not by much.
func TestHostsThatCannotBeReachedAreForgotten(t *testing.T) {
	t.Parallel()
	const most, many = 20, 500
	w := newWorld(t, caller.Config{})
	w.SetMaxDials(most)
	var answers []<-chan core.Called
	for n := range many {
		answers = append(answers, w.start(post("http://"+nobody(n), "")), w.start(unary(nobody(n)+"/a.B/C", nil)))
		if n%10 == 9 {
			for _, a := range answers {
				if got := w.wait(a); got.Verdict != core.Unsure {
					t.Fatalf("got %+v", got)
				}
			}
			answers = nil
		}
	}
	n, known := w.Remembered()
	// Whoever has just answered may still be on its way out.
	if n > most+20 {
		t.Errorf("%d of %d hosts are remembered", n, many)
	}
	if !known {
		t.Fatal("this net/http has other insides: look whether it still remembers hosts, and how many")
	}
}

func TestCallsUnderWayOutliveTheirTransport(t *testing.T) {
	t.Parallel()
	arrived, goOn, closed := make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-goOn
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			select {
			case closed <- struct{}{}:
			default:
			}
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	w := newWorld(t, caller.Config{})
	w.SetMaxDials(3)
	slow := w.start(post(srv.URL+"/slow", ""))
	receive(t, arrived)
	for n := range 10 {
		w.do(post("http://"+nobody(n), ""))
	}
	close(goOn)
	if a := w.wait(slow); a.Verdict != core.Done {
		t.Errorf("got %+v", a)
	}
	receive(t, closed) // nobody would use its connection again
	if a := w.do(post(srv.URL, "")); a.Verdict != core.Done {
		t.Errorf("got %+v", a)
	}
}

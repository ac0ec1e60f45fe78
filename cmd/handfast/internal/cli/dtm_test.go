package cli

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
)

var dtmLine = regexp.MustCompile(`DTM's clients: (\S+) and (\S+)\.`)

// startForDTM runs "handfast dev" with free ports, and gives its address and that of
// DTM's API.
func startForDTM(t *testing.T) (admin, dtm string) {
	t.Helper()
	d, said := startDevReading(t, "--dtm-http", "127.0.0.1:0", "--dtm-grpc", "127.0.0.1:0")
	for line := range said {
		if m := dtmLine.FindStringSubmatch(line); m != nil {
			go func() {
				for range said { // or it can't write any more
				}
			}()
			return d.addr, m[1]
		}
	}
	t.Fatal("dev does not say where DTM's clients are served")
	return "", ""
}

func postDTM(t *testing.T, at, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// What came over DTM's API is for operators like everything else.
func TestTransactionsOfDTMAreShownTriedAndGivenUp(t *testing.T) {
	t.Parallel()
	called := make(chan string, 100)
	branch := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		called <- r.URL.Path
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(branch.Close)
	admin, dtm := startForDTM(t)
	// The next attempt would be in an hour: whatever comes before was asked for.
	code, text := postDTM(t, dtm+"/submit", `{"gid":"order-7","trans_type":"saga","retry_interval":3600,
		"steps":[{"action":"`+branch.URL+`/pay","compensate":"`+branch.URL+`/refund"}],"payloads":["{}"]}`)
	if code != http.StatusOK {
		t.Fatalf("submit: %d %s", code, text)
	}
	await := func(path string) {
		t.Helper()
		select {
		case got := <-called:
			if got != path {
				t.Fatalf("called %s, want %s", got, path)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is not called", path)
		}
	}
	await("/pay")
	run := func(args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		args = append([]string{"tx"}, append(args, "--server", admin)...)
		if code := Run(t.Context(), args, Streams{Out: &out, Err: &errs}); code != ExitOK {
			t.Fatalf("%v: %d %s", args, code, errs.String())
		}
		return out.String()
	}
	for _, want := range []string{"order-7", "dtm saga", branch.URL + "/pay", "(as DTM)"} {
		if got := run("show", "--key", "order-7"); !strings.Contains(got, want) {
			t.Errorf("show does not tell %q:\n%s", want, got)
		}
	}
	if got := run("list", "--name", "dtm "); !strings.Contains(got, "dtm saga") {
		t.Errorf("list:\n%s", got)
	}
	// The answer to the first attempt may still be on its way, but is not forgotten.
	if got := run("retry", "--key", "order-7"); !strings.Contains(got, "1 resources") {
		t.Errorf("retry: %s", got)
	}
	await("/pay")
	if got := run("abandon", "--key", "order-7", "--operator", "ann"); !strings.Contains(got, "1 calls are given up") {
		t.Errorf("abandon: %s", got)
	}
	if got := run("show", "--key", "order-7"); !strings.Contains(got, "given up") || !strings.Contains(got, "ann") {
		t.Errorf("show after abandon:\n%s", got)
	}
	if code, text := postDTM(t, dtm+"/forceStop", `{"gid":"order-7"}`); code != http.StatusConflict {
		t.Errorf("it goes on for DTM's clients: %d %s", code, text)
	}
	select {
	case path := <-called:
		t.Errorf("%s was called after it was given up", path)
	default:
	}
	var out, errs bytes.Buffer
	if code := Run(t.Context(), []string{"tx", "show", "--key", "order-8", "--server", admin}, Streams{Out: &out, Err: &errs}); code != ExitFailure ||
		!strings.Contains(errs.String(), `"order-8"`) {
		t.Errorf("unknown key: %d %s", code, errs.String())
	}
}

func TestDevGoesOnWhereDTMsPortsAreTaken(t *testing.T) {
	t.Parallel()
	taken := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(taken.Close)
	d := startDev(t, "--dtm-http", strings.TrimPrefix(taken.URL, "http://"))
	if code := Run(t.Context(), []string{"status", "--server", d.addr}, Streams{Out: io.Discard, Err: io.Discard}); code != ExitOK {
		t.Errorf("status: %d", code)
	}
	// "server" was told to serve them, and must not leave it out in silence.
	var errs bytes.Buffer
	code := Run(t.Context(), []string{"server", "--listen", "127.0.0.1:0", "--store-dir", t.TempDir(), "--dtm",
		"--dtm-http", strings.TrimPrefix(taken.URL, "http://")}, Streams{Out: io.Discard, Err: &errs})
	if code != ExitFailure || !strings.Contains(errs.String(), "DTM's clients") {
		t.Errorf("server: %d %s", code, errs.String())
	}
}

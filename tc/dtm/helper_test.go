package dtm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/handfast/handfast/proto/dtmgimp"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/dtm"
)

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// slack is how many seconds a call may take beside the pause that follows it.
const slack = 15

// ample is the request_timeout of what is answered, in seconds. Without one it is 3 s, which
// a busy machine may need for a single call.
const ample = 60

// object is JSON.
type object = map[string]any

// shared is a coordinator for all tests that do not look at what others do there.
var shared *world

// world is a coordinator, and a client of DTM's API.
type world struct {
	url    string // of HTTP, without a path
	host   string // of gRPC
	rpc    dtmgimp.DtmClient
	conn   *grpc.ClientConn
	client http.Client
	cancel context.CancelFunc
	served chan error
}

func startWorld(dir string, change ...func(*tc.Config)) (*world, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	cfg := tc.Config{
		Listener: lis, StoreDir: dir, DrainTimeout: patience, Log: slog.New(slog.DiscardHandler),
		DTM: &dtm.Config{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Version: "test"},
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := tc.NewServer(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	overHTTP, overGRPC := s.DTMAddrs()
	w, err := dial(overHTTP.String(), overGRPC.String())
	w.cancel, w.served = cancel, make(chan error, 1)
	go func() { w.served <- s.Serve(ctx) }()
	return w, err
}

// dial gives a client of a coordinator.
func dial(overHTTP, overGRPC string) (*world, error) {
	conn, err := grpc.NewClient(overGRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return &world{
		url: "http://" + overHTTP, host: overGRPC, conn: conn, rpc: dtmgimp.NewDtmClient(conn),
		client: http.Client{Transport: &http.Transport{}},
	}, err
}

// stop ends it in order.
func (w *world) stop() error {
	err := w.close()
	w.cancel()
	return errors.Join(err, <-w.served)
}

// close gives up the connections of the client.
func (w *world) close() error {
	w.client.CloseIdleConnections()
	return w.conn.Close()
}

// own starts a coordinator for one test alone.
func own(t *testing.T, change ...func(*tc.Config)) *world {
	t.Helper()
	w, err := startWorld(t.TempDir(), change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

var gids atomic.Int64

// gid makes one that is new. What it names is stopped with the test. It ends in a letter:
// a test that hangs digits on one must not meet that of another.
func (w *world) gid(t *testing.T) string {
	t.Helper()
	gid := fmt.Sprintf("gid-%dg", gids.Add(1))
	t.Cleanup(func() { w.post(t, "forceStop", object{"gid": gid}) })
	return gid
}

// limited gives a context that ends when a test has waited long enough.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// answer is what came over HTTP.
type answer struct {
	status int
	kind   string // Content-Type
	body   string
}

// do makes a request; path begins with "/".
func (w *world) do(t *testing.T, method, path, body string) answer {
	t.Helper()
	a, err := w.try(limited(t), method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// try is do for where there may be nobody.
func (w *world) try(ctx context.Context, method, path, body string) (a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("Content-Type"), string(b)}, err
}

// post sends JSON to an endpoint.
func (w *world) post(t *testing.T, endpoint string, v any) answer {
	t.Helper()
	return w.do(t, http.MethodPost, "/api/dtmsvr/"+endpoint, marshal(t, v))
}

// get asks an endpoint.
func (w *world) get(t *testing.T, endpoint string, query ...string) answer {
	t.Helper()
	return w.do(t, http.MethodGet, withQuery("/api/dtmsvr/"+endpoint, query...), "")
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func withQuery(path string, query ...string) string {
	q := url.Values{}
	for i := 0; i < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return path
}

// want compares an answer: its status, and what has to be in its body.
func (a answer) want(t *testing.T, status int, parts ...string) answer {
	t.Helper()
	a.body = strings.ReplaceAll(a.body, `\u0026`, "&") // the same in JSON
	if a.status != status {
		t.Fatalf("got %d %s, want %d %q", a.status, a.body, status, parts)
	}
	for _, p := range parts {
		if !strings.Contains(a.body, p) {
			t.Fatalf("got %d %s, want %q in it", a.status, a.body, p)
		}
	}
	return a
}

// success is the answer of what gives nothing back.
const success = `{"dtm_result":"SUCCESS"}`

// ok wants that answer.
func (a answer) ok(t *testing.T) {
	t.Helper()
	if a.status != http.StatusOK || a.body != success || a.kind != jsonType {
		t.Fatalf("got %d %s %s, want %s", a.status, a.kind, a.body, success)
	}
}

const jsonType = "application/json; charset=utf-8"

// read reads a JSON answer.
func read[T any](t *testing.T, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	return v
}

// found is what query shows.
type found struct {
	Transaction object
	Branches    []object
}

func (w *world) query(t *testing.T, gid string) found {
	t.Helper()
	return read[found](t, w.get(t, "query", "gid", gid).want(t, http.StatusOK))
}

// statuses are those of the transaction and of its rows: "submitted 01-compensate:prepared ...".
func (f found) statuses() string {
	if f.Transaction == nil {
		return "unknown"
	}
	parts := []string{fmt.Sprint(f.Transaction["status"])}
	for _, b := range f.Branches {
		parts = append(parts, fmt.Sprintf("%s-%s:%s", b["branch_id"], b["op"], b["status"]))
	}
	return strings.Join(parts, " ")
}

// await polls until the statuses begin with what is wanted, and gives what was found.
func (w *world) await(t *testing.T, gid, want string) (f found) {
	t.Helper()
	eventually(t, func() (bool, string) {
		f = w.query(t, gid)
		return strings.HasPrefix(f.statuses()+" ", want+" "), fmt.Sprintf("%s is %s, want %s", gid, f.statuses(), want)
	})
	return f
}

// eventually polls for a condition, which also says what is the case meanwhile.
func eventually(t *testing.T, f func() (ok bool, state string)) {
	t.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		ok, state := f()
		if ok {
			return
		}
		if time.Now().After(late) {
			t.Fatal(state)
		}
	}
}

// call is what a branch was called with.
type call struct {
	method, path, rawQuery, body string
	query                        url.Values
	header                       http.Header
	at                           time.Time
}

// branches is a service that answers as the query of its URL says: status and body; hold
// names a gate that has to be opened before.
type branches struct {
	*httptest.Server
	mu    sync.Mutex
	calls []call
	ends  []string // gid, "end of", branch and op of the calls that were answered
	gates map[string]chan struct{}
}

func newBranches(t *testing.T) *branches {
	t.Helper()
	b := &branches{gates: map[string]chan struct{}{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(func() {
		b.mu.Lock()
		for _, g := range b.gates {
			select {
			case <-g:
			default:
				close(g)
			}
		}
		b.mu.Unlock()
		b.Close()
	})
	return b
}

// at is the URL of a path, with a query.
func (b *branches) at(path string, query ...string) string { return withQuery(b.URL+path, query...) }

func (b *branches) gate(name string) chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gates[name] == nil {
		b.gates[name] = make(chan struct{})
	}
	return b.gates[name]
}

func (b *branches) open(name string) { close(b.gate(name)) }

func (b *branches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	q := r.URL.Query()
	b.mu.Lock()
	b.calls = append(b.calls, call{r.Method, r.URL.Path, r.URL.RawQuery, string(body), q, r.Header, time.Now()})
	b.mu.Unlock()
	if name := q.Get("hold"); name != "" {
		<-b.gate(name)
	}
	b.mu.Lock()
	b.ends = append(b.ends, q.Get("gid")+" end of "+q.Get("branch_id")+"-"+q.Get("op"))
	b.mu.Unlock()
	if status, err := strconv.Atoi(q.Get("status")); err == nil {
		w.WriteHeader(status)
	}
	_, _ = io.WriteString(w, q.Get("body"))
}

// of are the calls about a gid; empty: all.
func (b *branches) of(gid string) (out []call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.calls {
		if gid == "" || c.query.Get("gid") == gid {
			out = append(out, c)
		}
	}
	return out
}

// names are "branch-op" of the calls about a gid.
func (b *branches) names(gid string) (out []string) {
	for _, c := range b.of(gid) {
		out = append(out, c.query.Get("branch_id")+"-"+c.query.Get("op"))
	}
	return out
}

// called polls until there were n calls about a gid, and gives them.
func (b *branches) called(t *testing.T, gid string, n int) []call {
	t.Helper()
	eventually(t, func() (bool, string) {
		return len(b.of(gid)) >= n, fmt.Sprintf("%d calls about %s: %v", len(b.of(gid)), gid, b.names(gid))
	})
	return b.of(gid)
}

// want compares the calls about a gid, in order.
func (b *branches) want(t *testing.T, gid string, names ...string) {
	t.Helper()
	if got := b.names(gid); !slices.Equal(got, names) {
		t.Fatalf("%s: called %q, want %q", gid, got, names)
	}
}

// saga is one whose steps have the same payload, and an action and a compensation each.
func saga(gid string, urls ...string) object {
	steps, payloads := []object{}, []string{}
	for i := 0; i+1 < len(urls); i += 2 {
		steps = append(steps, object{"action": urls[i], "compensate": urls[i+1]})
		payloads = append(payloads, `{"n":1}`)
	}
	return object{"gid": gid, "trans_type": "saga", "steps": steps, "payloads": payloads, "concurrent": false, "request_timeout": ample}
}

// msg is one with a payload for each action.
func msg(gid, query string, urls ...string) object {
	steps, payloads := []object{}, []string{}
	for _, u := range urls {
		steps = append(steps, object{"action": u})
		payloads = append(payloads, `{"n":1}`)
	}
	return object{"gid": gid, "trans_type": "msg", "steps": steps, "payloads": payloads, "query_prepared": query, "request_timeout": ample}
}

// with adds fields: a name and a value each.
func with(o object, fields ...any) object {
	out := object{}
	for k, v := range o {
		out[k] = v
	}
	for i := 0; i < len(fields); i += 2 {
		out[fields[i].(string)] = fields[i+1]
	}
	return out
}

// trans is one of a mode that gets its branches later.
func trans(gid, mode string) object {
	return object{"gid": gid, "trans_type": mode, "request_timeout": ample}
}

// tccBranch is a branch of TCC.
func tccBranch(gid, id, confirm, cancel string) object {
	return object{"gid": gid, "trans_type": "tcc", "branch_id": id, "data": `{"n":1}`, "confirm": confirm, "cancel": cancel}
}

// xaBranch is a branch of XA, without its number and its URL.
func xaBranch(gid string) object { return object{"gid": gid, "trans_type": "xa"} }

// workflow is one that is called back at a URL.
func workflow(gid, back string) object {
	return object{"gid": gid, "trans_type": "workflow", "query_prepared": back, "custom_data": `{"name":"flow","data":"aW4="}`, "request_timeout": ample}
}

// progress registers the result of a step of a workflow.
func progress(gid, id, status, result string) object {
	return object{"gid": gid, "trans_type": "workflow", "branch_id": id, "op": "action", "status": status, "data": result}
}

// ended is the submit of a workflow.
func ended(gid, status, reason, result string) object {
	return object{"gid": gid, "trans_type": "workflow", "req_extra": object{"status": status, "rollback_reason": reason, "result": result}}
}

// request is a transaction over gRPC, with options that say little.
func request(gid, mode string) *dtmgimp.DtmRequest {
	return &dtmgimp.DtmRequest{Gid: gid, TransType: mode, Steps: "null", TransOptions: &dtmgimp.DtmTransOptions{RequestTimeout: ample}}
}

package dtm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/dtm-labs/client/dtmgrpc/dtmgimp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/handfast/handfast/tests/dtm/server"
)

const (
	// patience is how long a test waits for what has to happen.
	patience = 60 * time.Second
	// inTime is a timeout, in seconds, that a test lets pass, but not before it has done a
	// few things. A busy machine may need seconds for those.
	inTime = 10
)

// protocol is how a client talks to the coordinator, and that to the services.
type protocol string

const (
	overHTTP    protocol = "http"
	overJSONRPC protocol = "json-rpc"
	overGRPC    protocol = "grpc"
)

// each runs a test once per protocol, or once per named one.
func each(t *testing.T, test func(*world, protocol), protocols ...protocol) {
	t.Helper()
	if len(protocols) == 0 {
		protocols = []protocol{overHTTP, overJSONRPC, overGRPC}
	}
	for _, p := range protocols {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			test(newWorld(t), p)
		})
	}
}

// world is a coordinator and the services of one test.
type world struct {
	*server.Server
	*services
	t *testing.T
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, Server: server.Shared(t), services: serve(t)}
}

// newWorldToKill has a coordinator of its own.
func newWorldToKill(t *testing.T) *world {
	t.Helper()
	return &world{t: t, Server: server.Start(t), services: serve(t)}
}

// gid gives a new one, from the coordinator.
func (w *world) gid(p protocol) string {
	w.t.Helper()
	if p == overGRPC {
		return dtmgrpc.MustGenGid(w.GRPC)
	}
	return dtmcli.MustGenGid(w.HTTP)
}

// call is one that a service got.
type call struct {
	Name, Op, Branch, Gid, Type string

	Via     string // GET, POST, json-rpc or grpc
	Body    string
	Header  func(string) string
	Query   url.Values      // of a call over HTTP
	Context context.Context //nolint:containedctx // of a call over gRPC, with its metadata
}

func (c call) String() string { return c.Name + " " + c.Op }

// services are the same over HTTP, JSON-RPC and gRPC. They answer with success,
// unless a test wants something else. They are written for any name.
type services struct {
	t    *testing.T
	web  string // http://127.0.0.1:PORT
	grpc string // 127.0.0.1:PORT

	mu      sync.Mutex
	forget  bool // calls are not kept
	calls   []call
	answers map[string]func(call) error
}

func serve(t *testing.T) *services {
	t.Helper()
	s := &services{t: t, answers: map[string]func(call) error{}}
	web := httptest.NewServer(s)
	t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
	})
	s.web = web.URL
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.grpc = lis.Addr().String()
	g := grpc.NewServer(grpc.UnknownServiceHandler(s.overGRPC))
	done := make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // it may not have begun
			t.Error(err)
		}
	})
	return s
}

// url is the address of what has a name.
func (s *services) url(p protocol, name string) string {
	switch p {
	case overGRPC:
		return s.grpc + "/busi.Busi/" + name
	case overJSONRPC:
		return s.web + "/rpc?method=" + name
	case overHTTP:
	}
	return s.web + "/" + name
}

// on has a function answer calls of what has a name and an op, such as "pay action".
func (s *services) on(what string, f func(call) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[what] = f
}

// bareError is a code of JSON-RPC whose message says nothing.
type bareError int

func (bareError) Error() string { return "see the code" }

// oldError is an answer as services gave it before DTM 1.10: a word in a body that says
// OK, or ABORTED with that word.
type oldError string

func (e oldError) Error() string { return string(e) }

// answer gives errors one after the other, and success after that.
func answer(errs ...error) func(call) error {
	var mu sync.Mutex
	return func(call) (err error) {
		mu.Lock()
		defer mu.Unlock()
		if len(errs) > 0 {
			err, errs = errs[0], errs[1:]
		}
		return err
	}
}

// always gives the same error.
func always(err error) func(call) error { return func(call) error { return err } }

// errDown is no answer that means something.
var errDown = errors.New("out of order")

func (s *services) got(c call) error {
	s.mu.Lock()
	if !s.forget {
		s.calls = append(s.calls, c)
	}
	f := s.answers[c.String()]
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(c)
}

// log says what was called, in order.
func (s *services) log() (log []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		log = append(log, c.String())
	}
	return log
}

// all gives the calls of what has a name and an op.
func (s *services) all(what string) (calls []call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.String() == what {
			calls = append(calls, c)
		}
	}
	return calls
}

// called waits for the nth call.
func (s *services) called(what string, n int) call {
	s.t.Helper()
	var calls []call
	eventually(s.t, func() error {
		if calls = s.all(what); len(calls) < n {
			return fmt.Errorf("%d calls of %s, want %d; all: %v", len(calls), what, n, s.log())
		}
		return nil
	})
	return calls[n-1]
}

// ServeHTTP is a call over HTTP or JSON-RPC.
func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q := r.URL.Query()
	c := call{Name: path.Base(r.URL.Path), Op: q.Get("op"), Branch: q.Get("branch_id"), Gid: q.Get("gid"), Type: q.Get("trans_type"),
		Via: r.Method, Body: string(body), Header: r.Header.Get, Query: q, Context: r.Context()}
	if method := q.Get("method"); method != "" {
		c.Name = method
		if c.Op == "" {
			s.overJSONRPC(w, c)
			return
		}
	}
	err = s.got(c)
	status, result := dtmcli.Result2HttpJSON(err)
	var old oldError
	if status == http.StatusOK {
		result = map[string]string{"did": c.Name}
	} else if errors.As(err, &old) {
		status, result = http.StatusOK, map[string]string{"dtm_result": string(old)}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result)
}

func (s *services) overJSONRPC(w http.ResponseWriter, c call) {
	var r struct {
		ID, Method, Jsonrpc string
		Params              struct {
			Gid, Op   string
			TransType string `json:"trans_type"`
			BranchID  string `json:"branch_id"`
		}
	}
	if err := json.Unmarshal([]byte(c.Body), &r); err != nil || r.Method != c.Name || r.Jsonrpc != "2.0" || r.ID == "" {
		http.Error(w, fmt.Sprintf("no JSON-RPC: %v: %s", err, c.Body), http.StatusBadRequest)
		return
	}
	c.Via, c.Op, c.Gid, c.Branch, c.Type = "json-rpc", r.Params.Op, r.Params.Gid, r.Params.BranchID, r.Params.TransType
	answer := map[string]any{"jsonrpc": "2.0", "id": r.ID, "result": "done"}
	if err := s.got(c); err != nil {
		code := -32603
		var bare bareError
		switch {
		case errors.As(err, &bare):
			code = int(bare)
		case errors.Is(err, dtmcli.ErrFailure):
			code = dtmimp.JrpcCodeFailure
		case errors.Is(err, dtmcli.ErrOngoing):
			code = dtmimp.JrpcCodeOngoing
		}
		answer = map[string]any{"jsonrpc": "2.0", "id": r.ID, "error": map[string]any{"code": code, "message": err.Error()}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// overGRPC is a call of any method: a StringValue in, a StringValue out.
func (s *services) overGRPC(_ any, stream grpc.ServerStream) error {
	var in wrapperspb.StringValue
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	method, _ := grpc.MethodFromServerStream(stream)
	t := dtmgimp.TransBaseFromGrpc(stream.Context())
	md, _ := metadata.FromIncomingContext(stream.Context())
	c := call{Name: path.Base(method), Op: t.Op, Branch: t.BranchID, Gid: t.Gid, Type: t.TransType,
		Via: "grpc", Body: in.GetValue(), Context: stream.Context(),
		Header: func(name string) string { return strings.Join(md.Get(name), ",") }}
	if err := s.got(c); err != nil {
		var old oldError
		if errors.As(err, &old) {
			return status.Error(codes.Aborted, string(old))
		}
		return dtmgrpc.DtmError2GrpcError(err)
	}
	return stream.SendMsg(wrapperspb.String(c.Name))
}

// report is what the coordinator's query says.
type report struct {
	Transaction *struct {
		Gid, Status, Protocol, Result string
		TransType                     string `json:"trans_type"`
		RollbackReason                string `json:"rollback_reason"`
		QueryPrepared                 string `json:"query_prepared"`
		CustomData                    string `json:"custom_data"`
	}
	Branches []struct {
		BranchID string `json:"branch_id"`
		Op       string
		Status   string
		URL      string
	}
}

// rows are the branches in the order of the report.
func (r report) rows() (rows []string) {
	for _, b := range r.Branches {
		rows = append(rows, b.BranchID+" "+b.Op+" "+b.Status)
	}
	return rows
}

func (r report) status() string {
	if r.Transaction == nil {
		return "unknown"
	}
	return r.Transaction.Status
}

func ask(ctx context.Context, api, gid string) (r report, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api+"/query?gid="+url.QueryEscape(gid), http.NoBody)
	if err != nil {
		return r, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return r, err
	}
	if resp.StatusCode != http.StatusOK {
		return r, fmt.Errorf("query: %s: %s", resp.Status, text)
	}
	return r, json.Unmarshal(text, &r)
}

// query says what the coordinator knows.
func (w *world) query(gid string) report {
	w.t.Helper()
	r, err := ask(w.t.Context(), w.HTTP, gid)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// reaches waits for a status. It fails at once where another is final.
func (w *world) reaches(gid, status string) report {
	w.t.Helper()
	var r report
	eventually(w.t, func() error {
		r = w.query(gid)
		if s := r.status(); s == dtmcli.StatusSucceed || s == dtmcli.StatusFailed || s == status {
			return nil
		}
		return fmt.Errorf("transaction %s is %s, want %s: %v; calls: %v", gid, r.status(), status, r.rows(), w.log())
	})
	if r.status() != status {
		w.t.Fatalf("transaction %s is %s, want %s: %v %+v; calls: %v", gid, r.status(), status, r.rows(), r.Transaction, w.log())
	}
	return r
}

// ends waits for a status, and compares the branches.
func (w *world) ends(gid, status string, rows ...string) report {
	w.t.Helper()
	r := w.reaches(gid, status)
	same(w.t, "branches of "+gid, r.rows(), rows)
	return r
}

// eventually tries until there is no error.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	end := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("after %v: %v", patience, err)
		}
	}
}

// same ends the test where two lists differ.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// check ends the test after an error.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signal is done once.
type signal struct {
	once sync.Once
	done chan struct{}
}

func newSignal() *signal { return &signal{done: make(chan struct{})} }

func (s *signal) give() { s.once.Do(func() { close(s.done) }) }

// wait waits for it, but not longer than a test has patience.
func (s *signal) wait() error {
	select {
	case <-s.done:
		return nil
	case <-time.After(patience):
		return errors.New("nobody gave the signal")
	}
}

package tc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/internal/child"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/xid"
)

// asCoordinator makes this program a coordinator over the directory it names, on
// the listener that it inherits.
const asCoordinator = "HANDFAST_TC_TEST_DIR"

func beCoordinator(dir string) error {
	lis, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	crash, err := tc.CrashPoint(os.Getenv(tc.CrashPointEnv), quiet())
	if err != nil {
		return err
	}
	s, err := tc.NewServer(context.Background(), tc.Config{Listener: lis, StoreDir: dir, Engine: engine.Config{CrashPoint: crash}, Log: quiet()})
	if err != nil {
		return err
	}
	return s.Serve(context.Background())
}

// mortal is a coordinator in a process of its own. Its address outlives it: who
// calls while it is dead waits for the next one.
type mortal struct {
	dir  string
	addr string
	lis  *os.File
	proc *child.Process
}

func startMortal(t *testing.T) *mortal {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process can't inherit a listener here")
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{dir: t.TempDir(), addr: lis.Addr().String()}
	m.lis, err = lis.(*net.TCPListener).File()
	if err = errors.Join(err, lis.Close()); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	t.Cleanup(func() {
		m.proc.Kill()
		_ = m.lis.Close()
	})
	return m
}

func (m *mortal) start(t *testing.T, env ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), asCoordinator+"="+m.dir), env...)
	cmd.ExtraFiles = []*os.File{m.lis}
	cmd.Stderr = os.Stderr
	var err error
	if m.proc, err = child.Start(cmd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func (m *mortal) restart(t *testing.T, env ...string) {
	t.Helper()
	m.proc.Kill()
	m.start(t, env...)
}

// ask gives a connection of its own, which knows nothing of those before.
func (m *mortal) ask(t *testing.T, f func(context.Context, pb.CoordinatorClient)) {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+m.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	f(limited(t), pb.NewCoordinatorClient(cc))
}

func (m *mortal) get(t *testing.T, id string) (tx *pb.Transaction) {
	t.Helper()
	m.ask(t, func(ctx context.Context, c pb.CoordinatorClient) {
		r, err := c.Get(ctx, &pb.GetRequest{Xid: id})
		if err != nil {
			t.Fatal(err)
		}
		tx = r.GetTransaction()
	})
	return tx
}

// point is a moment of a call at a participant.
type point string

const (
	arrives  point = "the call arrives"         // and goes on when all is over
	done     point = "the effect is there"      // and nothing is answered
	answered point = "the answer is on its way" // nobody knows whether it came
	dies     point = "its participant dies"     // before the effect
	mute     point = "no answer"                // the participant dies after the effect
	half     point = "half an answer"           // the same, in the middle of it
)

// kills tells whether the coordinator is to die there, and not the participant.
func (p point) kills() bool { return p == arrives || p == done || p == answered }

// guarded are participants that fence their actions, in memory, and note every
// effect. Something happens at one call, counted from 1.
type guarded struct {
	*httptest.Server
	at   int
	what point
	hit  chan struct{} // closed when it happens
	free chan struct{} // closed by goOn
	goOn func()        // lets the call go on that is held

	mu      sync.Mutex
	calls   int
	state   map[xid.BranchID]fence.Action // the last one that counts
	blocked map[xid.BranchID]bool         // rolled back without forward
	effects []string
	keys    map[string]int // effects by idempotency key
	wrong   []string
}

func newGuarded(at int, what point) *guarded {
	g := &guarded{
		at: at, what: what, hit: make(chan struct{}), free: make(chan struct{}),
		state: map[xid.BranchID]fence.Action{}, blocked: map[xid.BranchID]bool{}, keys: map[string]int{},
	}
	g.goOn = sync.OnceFunc(func() { close(g.free) })
	g.Server = httptest.NewServer(g)
	return g
}

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call, err := fence.FromHTTP(r)
	g.mu.Lock()
	if err != nil {
		g.wrong = append(g.wrong, err.Error())
	}
	g.calls++
	now := g.calls == g.at
	g.mu.Unlock()
	if now && g.what == arrives {
		close(g.hit)
		<-g.free
	}
	if now && g.what == dies {
		panic(http.ErrAbortHandler)
	}
	status := g.run(call, r.URL.Path, r.Header.Get(fence.HeaderKey))
	if now && g.what == done {
		close(g.hit)
		<-g.free
	}
	if now && g.what == mute {
		panic(http.ErrAbortHandler)
	}
	body := []byte(`{"path": "` + r.URL.Path + `"}`)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if now && g.what == half {
		_, _ = w.Write(body[:5])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(body)
	if now && g.what == answered {
		_ = http.NewResponseController(w).Flush()
		close(g.hit)
		<-g.free
	}
}

// run is what package fence does in a database.
func (g *guarded) run(c fence.Call, name, key string) (status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.state[c.Branch]
	switch {
	case name == "/pivot/forward":
		return http.StatusConflict
	case was == c.Action || c.Action == fence.Rollback && g.blocked[c.Branch]:
		return http.StatusOK
	case c.Action == fence.Forward && was == fence.Commit:
		return http.StatusOK // repeated, after all is over
	case c.Action == fence.Forward && (was == fence.Rollback || g.blocked[c.Branch]):
		return http.StatusConflict
	case c.Action == fence.Rollback && was == 0:
		g.blocked[c.Branch] = true
		return http.StatusOK
	case c.Action != fence.Forward && was != fence.Forward:
		g.wrong = append(g.wrong, fmt.Sprintf("%s after %v", name, was))
		return http.StatusConflict
	}
	g.state[c.Branch] = c.Action
	g.effects = append(g.effects, name)
	g.keys[key]++
	return http.StatusOK
}

// act is a call that may soon be made again: the first one after a restart can be
// lost with the process that made it.
func act(url string) *pb.Action {
	return &pb.Action{Url: url, Timeout: durationpb.New(time.Second / 2)}
}

// saga has three steps with a confirmation and a compensation each. The pivot
// refuses.
func (g *guarded) saga(pivot bool) []*pb.RegisterBranchRequest {
	var out []*pb.RegisterBranchRequest
	retry := &pb.RetryPolicy{First: durationpb.New(5 * time.Millisecond), Max: durationpb.New(50 * time.Millisecond)}
	for n := 1; n <= 3; n++ {
		path := fmt.Sprintf("%s/step-%d/", g.URL, n)
		b := &pb.RegisterBranchRequest{
			BranchId: mkBranch(n), Mode: pb.Mode_MODE_SAGA, Name: fmt.Sprintf("step-%d", n),
			Plan: &pb.Plan{Forward: act(path + "forward"), Commit: act(path + "commit"), Rollback: act(path + "rollback"), Retry: retry},
		}
		if n > 1 {
			b.Plan.After = []string{mkBranch(n - 1)}
		}
		out = append(out, b)
	}
	if pivot {
		out = append(out, &pb.RegisterBranchRequest{
			BranchId: mkBranch(4), Mode: pb.Mode_MODE_SAGA, Name: "pivot",
			Plan: &pb.Plan{Forward: act(g.URL + "/pivot/forward"), After: []string{mkBranch(3)}, Retry: retry},
		})
	}
	return out
}

// ending is what becomes of a saga, and how many calls that takes.
type ending struct {
	outcome pb.Outcome
	pivot   bool
	calls   int
	effects []string
}

var endings = map[string]ending{
	"committed": {pb.Outcome_OUTCOME_COMMITTED, false, 6, []string{
		"/step-1/forward", "/step-2/forward", "/step-3/forward", "/step-1/commit", "/step-2/commit", "/step-3/commit"}},
	"compensated": {pb.Outcome_OUTCOME_ROLLED_BACK, true, 7, []string{
		"/step-1/forward", "/step-2/forward", "/step-3/forward", "/step-3/rollback", "/step-2/rollback", "/step-1/rollback"}},
}

// submit is a caller that dies as soon as it has the answer.
func (m *mortal) submit(t *testing.T, branches []*pb.RegisterBranchRequest) string {
	t.Helper()
	c, err := client.Dial(m.addr, client.WithLogger(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	begun, err := c.Begin(limited(t), &pb.BeginRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Submit(limited(t), &pb.SubmitRequest{Xid: begun.GetXid(), Branches: branches}); err != nil {
		t.Fatal(err)
	}
	return begun.GetXid()
}

// settled waits for the end, without a wish of its own: commit was asked for.
func (m *mortal) settled(t *testing.T, id string) (o pb.Outcome) {
	t.Helper()
	m.ask(t, func(ctx context.Context, c pb.CoordinatorClient) {
		r, err := c.Commit(ctx, &pb.CommitRequest{Xid: id, WaitSettled: true})
		if err != nil {
			t.Fatalf("%v; %v", err, m.get(t, id))
		}
		o = r.GetOutcome()
	})
	return o
}

// check compares what happened with what should have.
func (g *guarded) check(t *testing.T, want ending) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.effects, want.effects) || len(g.wrong) > 0 {
		t.Errorf("effects %q, want %q; wrong: %q", g.effects, want.effects, g.wrong)
	}
	for k, n := range g.keys {
		if n != 1 || k == "" {
			t.Errorf("%d effects with the key %q", n, k)
		}
	}
}

// carryOut runs a saga for each point, all at once; at is the call where it
// happens to each. The coordinator dies when they have all come to where it is to
// die. It gives the XIDs.
func (m *mortal) carryOut(t *testing.T, want ending, at int, points ...point) (ids []string) {
	t.Helper()
	var all []*guarded
	defer func() {
		for _, g := range all {
			g.goOn()
			g.Close() // waits for what is under way
			g.check(t, want)
		}
	}()
	for _, what := range points {
		g := newGuarded(at, what)
		all = append(all, g)
		ids = append(ids, m.submit(t, g.saga(want.pivot)))
	}
	told := make([]pb.Outcome, len(all))
	kills := false
	for i, g := range all {
		if g.what.kills() {
			kills = true
			select {
			case <-g.hit:
			case <-limited(t).Done():
				t.Fatalf("%s: call %d never came; %v", g.what, at, m.get(t, ids[i]))
			}
			told[i] = m.get(t, ids[i]).GetOutcome()
		}
	}
	if kills {
		m.restart(t)
	}
	for i, g := range all {
		if g.what != arrives {
			g.goOn()
		}
		if got := m.settled(t, ids[i]); got != want.outcome {
			t.Errorf("%s: it is %v, want %v", g.what, got, want.outcome)
		}
		if told[i] > pb.Outcome_OUTCOME_UNDECIDED && told[i] != want.outcome {
			t.Errorf("%s: it was told to be %v, and then %v", g.what, told[i], want.outcome)
		}
	}
	return ids
}

// remembers asks again, of a coordinator that has not seen it happen.
func (m *mortal) remembers(t *testing.T, want ending, ids []string) {
	t.Helper()
	m.restart(t)
	for _, id := range ids {
		if tx := m.get(t, id); tx.GetOutcome() != want.outcome || tx.GetPhase() != pb.Phase_PHASE_FINISHED {
			t.Errorf("afterwards it is %v, want %v", tx, want.outcome)
		}
	}
}

// Whoever dies at whichever call, every effect is there once or undone once, and
// the coordinator tells one outcome. The caller is gone from the beginning.
func TestASagaOutlivesEverybody(t *testing.T) {
	t.Parallel()
	for name, want := range endings {
		for who, points := range map[string][]point{
			"the coordinator": {arrives, done, answered}, "a participant": {dies, mute, half},
		} {
			t.Run(name+"/"+who, func(t *testing.T) {
				t.Parallel()
				m := startMortal(t)
				var ids []string
				for at := 1; at <= want.calls && !t.Failed(); at++ {
					ids = append(ids, m.carryOut(t, want, at, points...)...)
				}
				m.remembers(t, want, ids)
			})
		}
	}
}

// The decision is where it matters most: right before it is durable, and right
// after that, when nobody knows of it.
func TestASagaOutlivesItsDecision(t *testing.T) {
	t.Parallel()
	for name, want := range endings {
		for _, at := range []string{engine.BeforeDecision, engine.AfterDecision} {
			t.Run(name+"/"+at, func(t *testing.T) {
				t.Parallel()
				m := startMortal(t)
				m.restart(t, tc.CrashPointEnv+"="+at)
				g := newGuarded(0, "")
				defer func() {
					g.Close()
					g.check(t, want)
				}()
				id := m.submit(t, g.saga(want.pivot))
				select {
				case <-m.proc.Done():
				case <-limited(t).Done():
					t.Fatal("it did not kill itself")
				}
				m.start(t)
				if got := m.settled(t, id); got != want.outcome {
					t.Errorf("it is %v, want %v", got, want.outcome)
				}
				m.remembers(t, want, []string{id})
			})
		}
	}
}

package dtm

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/tests/dtm/server"
)

// asWorker makes this program run workflows: its value is a worker as JSON.
const asWorker = "HANDFAST_DTM_WORKER"

// worker is a process that runs workflows. There is one protocol and one
// coordinator in a process with this client.
type worker struct {
	Protocol  protocol
	API       string // of the coordinator
	HTTP      string // where it is told what to execute, and called back
	GRPC      string // where it is called back
	Web, Busi string // of the services, over HTTP and gRPC
	Bank      dtmcli.DBConf
	Crash     string // the point at which it dies by SIGKILL
	Again     int64  // after so many seconds it is called back, even while it is at it

	db   *sql.DB
	conn *grpc.ClientConn
}

// outcome is what an execution gives.
type outcome struct {
	Result  string
	Err     string
	Failure bool
	Ongoing bool
}

// work plays the worker.
func work(text string) error {
	var k worker
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return err
	}
	var err error
	if k.db, err = sql.Open(dtmcli.DBTypePostgres, dsn(k.Bank)); err != nil {
		return err
	}
	k.conn, err = grpc.NewClient(k.Busi, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(workflow.Interceptor))
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	if k.Protocol == overGRPC {
		workflow.InitGrpc(k.API, k.GRPC, g)
	} else {
		workflow.InitHTTP(k.API, "http://"+k.HTTP+"/callback")
	}
	for name, flow := range map[string]workflow.WfFunc2{"saga": k.saga, "tcc": k.tcc, "xa": k.xa, "local": k.local, "transfer": k.transfer} {
		if err := workflow.Register2(name, flow, func(wf *workflow.Workflow) { wf.RetryInterval = k.Again }); err != nil {
			return err
		}
	}
	lis, err := net.Listen("tcp", k.GRPC)
	if err != nil {
		return err
	}
	done := make(chan error, 2)
	go func() { done <- g.Serve(lis) }()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /execute", execute)
	mux.HandleFunc("POST /callback", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = workflow.ExecuteByQS(r.URL.Query(), body)
		}
		status, _ := dtmcli.Result2HttpJSON(err)
		w.WriteHeader(status)
	})
	go func() { done <- http.ListenAndServe(k.HTTP, mux) }()
	return <-done
}

func execute(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q := r.URL.Query()
	result, err := workflow.Execute2(q.Get("name"), q.Get("gid"), body)
	o := outcome{Result: string(result)}
	if err != nil {
		o.Err, o.Failure, o.Ongoing = err.Error(), errors.Is(err, dtmcli.ErrFailure), errors.Is(err, dtmcli.ErrOngoing)
	}
	_ = json.NewEncoder(w).Encode(o)
}

// point is where the process may die.
func (k *worker) point(name string) {
	if name != "" && k.Crash == name {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// call calls a service in the current branch.
func (k *worker) call(wf *workflow.Workflow, name, body string) ([]byte, error) {
	if k.Protocol == overGRPC {
		var out wrapperspb.StringValue
		err := k.conn.Invoke(wf.Context, "/busi.Busi/"+name, wrapperspb.String(body), &out)
		return []byte(out.GetValue()), err
	}
	resp, err := wf.NewRequest().SetBody(body).Post(k.Web + "/" + name)
	if err != nil {
		return nil, err
	}
	return resp.Body(), nil
}

// phase2 calls a service when it is known how the workflow ends.
func (k *worker) phase2(wf *workflow.Workflow, name, body, point string) workflow.WfPhase2Func {
	return func(*dtmcli.BranchBarrier) error {
		_, err := k.call(wf, name, body)
		k.point(point)
		return err
	}
}

func (k *worker) saga(wf *workflow.Workflow, _ []byte) ([]byte, error) {
	k.point("before out")
	if _, err := k.call(wf.NewBranch().OnRollback(k.phase2(wf, "out", payload, "in rollback")), "out", payload); err != nil {
		return nil, err
	}
	k.point("between")
	result, err := k.call(wf.NewBranch().OnRollback(k.phase2(wf, "in", payload, "")), "in", payload)
	k.point("at the end")
	return result, err
}

func (k *worker) tcc(wf *workflow.Workflow, _ []byte) (result []byte, err error) {
	for _, name := range []string{"out", "in"} {
		wf.NewBranch().OnCommit(k.phase2(wf, name, payload, "in commit")).OnRollback(k.phase2(wf, name, payload, "in rollback"))
		if result, err = k.call(wf, name, payload); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// xa moves as much as the data says.
func (k *worker) xa(wf *workflow.Workflow, data []byte) ([]byte, error) {
	if _, err := wf.NewBranch().DoXa(k.Bank, func(db *sql.DB) ([]byte, error) {
		return nil, change(db, give, "in", string(data))
	}); err != nil {
		return nil, err
	}
	k.point("between")
	return wf.NewBranch().DoXa(k.Bank, func(db *sql.DB) ([]byte, error) {
		return []byte("moved"), change(db, take, "out", string(data))
	})
}

// local moves as much as the data says in local transactions with barriers.
func (k *worker) local(wf *workflow.Workflow, data []byte) ([]byte, error) {
	move := func(q, name, point string) func(bb *dtmcli.BranchBarrier) ([]byte, error) {
		return func(bb *dtmcli.BranchBarrier) ([]byte, error) {
			err := bb.CallWithDB(k.db, func(tx *sql.Tx) error { return change(tx, q, name, string(data)) })
			k.point(point)
			return []byte("moved"), err
		}
	}
	undo := move(take, "in", "")
	wf.NewBranch().OnRollback(func(bb *dtmcli.BranchBarrier) error {
		_, err := undo(bb)
		return err
	})
	if _, err := wf.Do(move(give, "in", "in local")); err != nil {
		return nil, err
	}
	return wf.NewBranch().Do(move(take, "out", ""))
}

// transfer has the services move what the data says.
func (k *worker) transfer(wf *workflow.Workflow, data []byte) ([]byte, error) {
	for _, name := range []string{"out", "in"} {
		if _, err := k.call(wf.NewBranch().OnRollback(k.phase2(wf, name, string(data), "")), name, string(data)); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// process is a worker as its test sees it.
type process struct {
	worker
	w *world

	mu  sync.Mutex
	out bytes.Buffer
	p   *child.Process
}

// Write takes what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// calledBack is for workers of tests in which the coordinator has to go on with a workflow:
// it waits for as long as a busy machine may need until then.
func calledBack(k *worker) { k.Again = inTime / 2 }

// works starts a worker that calls the services of the world.
func (w *world) works(p protocol, change ...func(*worker)) *process {
	w.t.Helper()
	k := &process{w: w, worker: worker{Protocol: p, API: w.HTTP, HTTP: server.Address(w.t), GRPC: server.Address(w.t), Web: w.web, Busi: w.grpc, Again: 60}}
	if p == overGRPC {
		k.API = w.GRPC
	}
	for _, c := range change {
		c(&k.worker)
	}
	w.t.Cleanup(func() {
		k.p.Kill()
		if w.t.Failed() {
			w.t.Logf("the worker's output:\n%s", k.out.String())
		}
	})
	k.start()
	return k
}

func (p *process) start() {
	p.w.t.Helper()
	spec, err := json.Marshal(p.worker)
	check(p.w.t, err)
	exe, err := os.Executable()
	check(p.w.t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), asWorker+"="+string(spec))
	cmd.Stdout, cmd.Stderr = p, p
	p.p, err = child.Start(cmd, syscall.SIGKILL)
	check(p.w.t, err)
	eventually(p.w.t, func() error {
		select {
		case <-p.p.Done():
			p.w.t.Fatalf("the worker ended: %v", p.p.Err())
		default:
		}
		resp, err := http.Get("http://" + p.HTTP + "/ready")
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	})
}

// revive starts the worker again, without its crash.
func (p *process) revive() {
	p.w.t.Helper()
	p.p.Kill()
	p.Crash = ""
	p.start()
}

// execute runs a workflow. It gives an error where the process died.
func (p *process) execute(ctx context.Context, name, gid, data string) (o outcome, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.HTTP+"/execute?name="+name+"&gid="+url.QueryEscape(gid), bytes.NewBufferString(data))
	if err != nil {
		return o, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return o, err
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	if resp.StatusCode != http.StatusOK {
		return o, fmt.Errorf("execute: %s", resp.Status)
	}
	return o, json.NewDecoder(resp.Body).Decode(&o)
}

// runs executes a workflow in a process that lives.
func (p *process) runs(name, gid, data string) outcome {
	p.w.t.Helper()
	o, err := p.execute(p.w.t.Context(), name, gid, data)
	check(p.w.t, err)
	return o
}

// dies executes a workflow in a process that dies of it.
func (p *process) dies(t *testing.T, name, gid, data string) {
	t.Helper()
	if o, err := p.execute(t.Context(), name, gid, data); err == nil {
		t.Fatalf("lived on: %+v", o)
	}
	<-p.p.Done()
}

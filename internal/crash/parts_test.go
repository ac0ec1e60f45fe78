package crash

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/dtm"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
	"github.com/handfast/handfast/xid/xidhttp"
)

// coordinate is the coordinator, with shorter pauses than usual.
func (p part) coordinate(ctx context.Context, lis []net.Listener) error {
	st, err := pebblestore.Open(p.StoreDir, pebblestore.WithLogger(quiet()))
	if err != nil {
		return err
	}
	disk := &slowDisk{Store: st}
	var crash func(string)
	if n, ok := strings.CutPrefix(p.Crash, beforeForce+":"); ok {
		disk.at, err = strconv.ParseInt(n, 10, 64)
	} else {
		crash, err = tc.CrashPoint(p.Crash, quiet())
	}
	if err != nil {
		return err
	}
	s, err := tc.NewServer(ctx, tc.Config{
		Listener: lis[0], DTM: &dtm.Config{Listener: lis[1], GRPC: "127.0.0.1:0"}, Store: disk, Log: quiet(), DrainTimeout: time.Second,
		Engine: engine.Config{CrashPoint: crash, Core: core.Config{
			RestartGrace: time.Second, RetryFirst: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond, AnswerTimeout: time.Second,
		}},
	})
	if err != nil {
		return err
	}
	return s.Serve(ctx)
}

// beforeForce is a point for coordinators beside those of package engine: the log is
// about to be forced.
const beforeForce = "before-force"

// slowDisk takes its time to force the log, and dies when it does so for the at-th time.
// Meanwhile others hear of what is not durable yet, if somebody tells them.
type slowDisk struct {
	store.Store
	at, seen int64
}

// Apply implements store.Store. The log is forced by one goroutine only.
func (d *slowDisk) Apply(b store.Batch, sync bool) (uint64, error) {
	if sync && d.at > 0 {
		time.Sleep(5 * time.Millisecond)
		if d.seen++; d.seen == d.at {
			kill()
		}
	}
	return d.Store.Apply(b, sync)
}

const schema = `CREATE TABLE at (id int PRIMARY KEY, v int); INSERT INTO at VALUES (1, 0);
	CREATE TABLE xa (v int); INSERT INTO xa VALUES (0);
	CREATE TABLE effect (name text, action text);
	CREATE TABLE sent (id text PRIMARY KEY, really boolean);` + barrierTable

// participant is the services: two databases, actions behind fences, and handlers.
type participant struct {
	points
	p     part
	m     *tm.Manager
	pools [2]*rm.Pool
	plain *pgxpool.Pool // of the first database
	busy  atomic.Int64
}

func (p part) takePart(ctx context.Context, lis []net.Listener) (err error) {
	s := &participant{p: p}
	c, err := s.dial(p.Coordinator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	s.m = tm.New(c)
	for i, dsn := range p.DSN {
		if s.pools[i], err = rm.Open(ctx, c, dsn, rm.WithLogger(quiet()), rm.WithJanitorInterval(time.Second), rm.WithJanitorAge(time.Second)); err != nil {
			return err
		}
		defer s.pools[i].Close()
	}
	s.plain = s.pools[0].Plain()
	detach, err := s.group().Attach(c)
	if err != nil {
		return err
	}
	defer detach()
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis[0]) }()
	select {
	case <-ctx.Done():
		limited, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return srv.Shutdown(limited)
	case err := <-ended:
		return err
	}
}

func (s *participant) group() *handlers.Group {
	g := handlers.New("crash")
	workflow.Register(g, s.m, "flow", s.flow)
	return g
}

func (s *participant) routes() http.Handler {
	counted := http.NewServeMux()
	counted.Handle("POST /at/{db}", xidhttp.Middleware(http.HandlerFunc(s.at)))
	counted.Handle("POST /xa/{db}", xidhttp.Middleware(http.HandlerFunc(s.xa)))
	counted.HandleFunc("POST /do/{name}", s.do)
	counted.HandleFunc("POST /refuse/{name}", s.refuse)
	counted.HandleFunc("POST /publish/{id}", s.publish)
	counted.HandleFunc("POST /send/{id}", s.send)
	counted.HandleFunc("POST /sent/{id}", s.sent)
	counted.HandleFunc("/dtm/do/{name}", s.dtmDo)
	counted.HandleFunc("/dtm/refuse/{name}", s.dtmRefuse)
	counted.HandleFunc("/dtm/sent", s.dtmSent)
	counted.HandleFunc("/dtm/flow", s.dtmFlow)
	mux := http.NewServeMux()
	mux.Handle("/", s.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.busy.Add(1)
		defer s.busy.Add(-1)
		counted.ServeHTTP(w, r)
	})))
	mux.HandleFunc("POST /arm/{n}", func(_ http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.PathValue("n"), 10, 64)
		s.arm(n)
	})
	mux.HandleFunc("POST /busy", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, s.busy.Load()) })
	return mux
}

func (s *participant) pool(r *http.Request) *rm.Pool { return s.pools[r.PathValue("db")[0]-'a'] }

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), fence.HTTPStatus(err))
	}
}

func (s *participant) at(w http.ResponseWriter, r *http.Request) {
	_, err := s.pool(r).Exec(r.Context(), "UPDATE at SET v = v + 1 WHERE id = 1")
	answer(w, err)
}

func (s *participant) xa(w http.ResponseWriter, r *http.Request) {
	_, err := s.pool(r).Exec(rm.ContextWithMode(r.Context(), rm.XA), "UPDATE xa SET v = v + 1")
	answer(w, err)
}

// effect writes down that an action had its effect. Done twice, it is there twice.
func (s *participant) effect(ctx context.Context, call fence.Call, name string) error {
	_, err := fence.Run(ctx, s.plain, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		_, err := tx.Exec(ctx, "INSERT INTO effect VALUES ($1, $2)", name, call.Action.String())
		return nil, err
	})
	return err
}

func (s *participant) do(w http.ResponseWriter, r *http.Request) {
	call, err := fence.FromHTTP(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer(w, s.effect(r.Context(), call, r.PathValue("name")))
}

// refuse fails for good, and had no effect.
func (s *participant) refuse(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "no", http.StatusConflict)
}

func (s *participant) target(name string) target.Target {
	return target.HTTP(s.p.Participant+"/do/"+name, target.Timeout(time.Second))
}

// publish sends two messages with a local transaction, and says for itself whether
// that is committed.
func (s *participant) publish(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	answer(w, pgx.BeginFunc(ctx, s.pools[0], func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO sent VALUES ($1, true)", r.PathValue("id")); err != nil {
			return err
		}
		if err := rm.Publish(ctx, tx, s.target("m1"), s.target("m2")); err != nil {
			return err
		}
		if s.p.Refuse {
			return errors.New("no")
		}
		return nil
	}))
}

// send is the local transaction of a prepared message.
func (s *participant) send(w http.ResponseWriter, r *http.Request) {
	if s.p.Refuse {
		http.Error(w, "no", http.StatusConflict)
		return
	}
	_, err := s.plain.Exec(r.Context(), "INSERT INTO sent VALUES ($1, true)", r.PathValue("id"))
	answer(w, err)
}

// sent is asked by the coordinator where nobody said. It shuts a send out that has
// not happened, or waits for it.
func (s *participant) sent(w http.ResponseWriter, r *http.Request) {
	var really bool
	_, err := s.plain.Exec(r.Context(), "INSERT INTO sent VALUES ($1, false) ON CONFLICT DO NOTHING", r.PathValue("id"))
	if err == nil {
		err = s.plain.QueryRow(r.Context(), "SELECT really FROM sent WHERE id = $1", r.PathValue("id")).Scan(&really)
	}
	if err == nil && !really {
		http.Error(w, "it never will", http.StatusConflict)
		return
	}
	answer(w, err)
}

// flow is a workflow of three steps.
func (s *participant) flow(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
	for _, name := range []string{"w1", "w2", "w3"} {
		_, err := workflow.Step(ctx, w, name, func(ctx context.Context, step workflow.StepCall) (string, error) {
			if name == "w3" && s.p.Refuse {
				return "", target.ErrFailed
			}
			return name, s.effect(ctx, step, name)
		}, workflow.Compensate(s.target(name)))
		if errors.Is(err, target.ErrFailed) {
			return nil, err
		}
		if err != nil {
			return nil, errors.Join(workflow.ErrRetry, err)
		}
	}
	return []byte("1"), nil
}

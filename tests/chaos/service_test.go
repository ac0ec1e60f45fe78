//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid/xidhttp"
)

// service is one of two that are the same program, each with a database of its own.
type service struct {
	p    part
	m    *tm.Manager
	pool *rm.Pool
	http *http.Client
	busy atomic.Int64
}

func (p part) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// web is for calls between processes. Each has its time, as nobody may say that a call
// was lost.
func web(base http.RoundTripper) *http.Client {
	return &http.Client{Transport: base, Timeout: 6 * time.Second}
}

func (p part) serve(ctx context.Context) (err error) {
	s := &service{p: p, http: web(http.DefaultTransport)}
	c, err := client.Dial(p.Coordinator, client.WithLogger(p.log()), client.WithName(p.Name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	s.m = tm.New(c)
	for { // the database may be away, too
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		s.pool, err = rm.Open(limited, c, p.DSN, rm.WithLogger(p.log()), rm.WithName(p.Name),
			rm.WithJanitorInterval(2*time.Second), rm.WithJanitorAge(3*time.Second), rm.WithLockTimeout(2*time.Second))
		cancel()
		if err == nil {
			break
		}
		p.log().Info("no database yet", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	defer s.pool.Close()
	detach, err := s.group().Attach(c)
	if err != nil {
		return err
	}
	defer detach()
	srv := &http.Server{Addr: p.Listen, Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	select {
	case <-ctx.Done():
		limited, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return srv.Shutdown(limited)
	case err := <-ended:
		return err
	}
}

func (s *service) routes() http.Handler {
	work := http.NewServeMux()
	work.Handle("POST /at", xidhttp.Middleware(http.HandlerFunc(s.at)))
	work.Handle("POST /xa", xidhttp.Middleware(http.HandlerFunc(s.xa)))
	work.Handle("POST /inner", xidhttp.Middleware(http.HandlerFunc(s.inner)))
	work.HandleFunc("POST /do/{name}", s.do)
	work.HandleFunc("POST /refuse/{name}", s.refuse)
	work.HandleFunc("POST /publish", s.publish)
	work.HandleFunc("POST /send/{id}", s.send)
	work.HandleFunc("POST /check", s.check)
	s.dtmRoutes(work)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.busy.Add(1)
		defer s.busy.Add(-1)
		ctx, cancel := context.WithTimeout(r.Context(), 15*time.Second)
		defer cancel()
		work.ServeHTTP(w, r.WithContext(ctx))
	})
	mux.HandleFunc("GET /busy", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, s.busy.Load()) })
	return mux
}

func (s *service) target(i int, name string) target.Target { return s.p.target(i, name) }

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), fence.HTTPStatus(err))
	}
}

// Command service is one of the services of the container suite: a table of
// counters in a Postgres database, and an HTTP API that changes them inside of
// global transactions.
//
//	POST /order   begins a transaction, calls /change of other services, commits
//	POST /change  changes a counter inside of the caller's transaction
//	GET  /held    answers when an order with "hold" has made all of its calls
//	POST /release lets that order go on
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid/xidhttp"
)

func main() {
	if err := run(context.Background()); err != nil {
		slog.Error("service failed", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	c, err := client.Dial(os.Getenv("COORDINATOR"), client.WithName(os.Getenv("NAME")))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	pool, err := rm.Open(ctx, c, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()

	s := &service{
		db:   pool,
		tm:   tm.New(c),
		http: &http.Client{Transport: &xidhttp.Transport{}, Timeout: time.Minute},
		held: make(chan string, 1),
		free: make(chan struct{}),
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":8080")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: xidhttp.Middleware(s.routes()), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	fmt.Println("service is ready")
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return server.Shutdown(stop)
	}
}

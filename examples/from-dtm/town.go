package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/tm"
)

const patience = 20 * time.Second // for what only ends

// schema is that of a bank, and what DTM's barrier needs in a database.
const schema = `
	CREATE TABLE account (owner text PRIMARY KEY, balance int NOT NULL, held int NOT NULL DEFAULT 0, open bool NOT NULL DEFAULT true);
	CREATE SCHEMA dtm_barrier;
	CREATE TABLE dtm_barrier.barrier (
		id bigserial PRIMARY KEY, trans_type text, gid text, branch_id text, op text, barrier_id text, reason text,
		CONSTRAINT uniq_barrier UNIQUE (gid, branch_id, op, barrier_id))`

// town is two banks, and whoever looks into their databases.
type town struct {
	banks

	tm    *tm.Manager // nil where the coordinator was not started here
	out   io.Writer
	pg    *pgserver.Server
	names []string
	dbs   []*sql.DB
	clean []func() error
}

// start starts Postgres, the banks and, where dtm names none, a coordinator.
func (t *town) start(ctx context.Context, dtm string) (err error) {
	t.print("Starting Postgres and the banks ...\n")
	if t.pg, err = pgserver.Start(ctx, pgserver.Options{}); err != nil {
		return err
	}
	t.cleanup(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return t.pg.Stop(ctx)
	})
	if t.north, t.northDB, err = t.bank(ctx, "north", `INSERT INTO account VALUES ('anna', 100)`); err != nil {
		return err
	}
	if t.south, _, err = t.bank(ctx, "south", `INSERT INTO account VALUES ('bert', 0, 0, true), ('carl', 0, 0, false)`); err != nil {
		return err
	}
	if t.dtm = dtm; dtm != "" {
		if _, err := t.status(ctx, "none"); err != nil {
			return fmt.Errorf("no coordinator there: %w", err)
		}
		return nil
	}
	t.print("Building and starting handfast dev ...\n")
	c, err := startCoordinator(ctx)
	if err != nil {
		return err
	}
	t.cleanup(c.stop)
	t.dtm = c.dtm
	conn, err := client.Dial(c.native, client.WithName("from-dtm"), client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	t.cleanup(conn.Close)
	t.tm = tm.New(conn)
	return nil
}

// bank makes a bank's database and serves the bank.
func (t *town) bank(ctx context.Context, name, accounts string) (addr string, db *sql.DB, err error) {
	dsn, err := t.pg.CreateDatabase(ctx, name)
	if err != nil {
		return "", nil, err
	}
	if db, err = sql.Open("pgx", dsn); err != nil {
		return "", nil, err
	}
	t.cleanup(db.Close)
	if _, err := db.ExecContext(ctx, schema+";"+accounts); err != nil {
		return "", nil, fmt.Errorf("database %s: %w", name, err)
	}
	t.names, t.dbs = append(t.names, name), append(t.dbs, db)
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: (&bank{db}).handler(), ReadHeaderTimeout: patience}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.cleanup(func() error {
		err := server.Close()
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	})
	return "http://" + lis.Addr().String(), db, nil
}

// cleanup has something called at the end, the last first.
func (t *town) cleanup(f func() error) { t.clean = append(t.clean, f) }

func (t *town) stop() (err error) {
	for i := len(t.clean) - 1; i >= 0; i-- {
		err = errors.Join(err, t.clean[i]())
	}
	return err
}

// wait asks how a transaction is until that is final.
func (t *town) wait(ctx context.Context, gid string) (status string, err error) {
	for {
		if status, err = t.status(ctx, gid); err != nil {
			return "", err
		}
		if status == dtmcli.StatusSucceed || status == dtmcli.StatusFailed {
			return status, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return "", fmt.Errorf("%s is %s: %w", gid, status, ctx.Err())
		}
	}
}

func (t *town) status(ctx context.Context, gid string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.dtm+"/query?gid="+url.QueryEscape(gid), http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	var found struct{ Transaction struct{ Status string } }
	err = json.NewDecoder(resp.Body).Decode(&found)
	return found.Transaction.Status, errors.Join(err, resp.Body.Close())
}

// show prints what is in the banks' databases.
func (t *town) show(ctx context.Context, when string) error {
	var line strings.Builder
	for i, db := range t.dbs {
		var text string
		if err := db.QueryRowContext(ctx, `SELECT string_agg(owner || ' ' || balance || CASE WHEN held > 0 THEN ' and ' || held || ' held' ELSE '' END,
			', ' ORDER BY owner) FROM account`).Scan(&text); err != nil {
			return fmt.Errorf("database %s: %w", t.names[i], err)
		}
		fmt.Fprintf(&line, "   %s: %s", t.names[i], text)
	}
	t.say("%-12s%s", when, line.String())
	return nil
}

func (t *town) title(text string) { t.print("\n%s\n", text) }

func (t *town) say(format string, args ...any) { t.print("  "+format+"\n", args...) }

func (t *town) print(format string, args ...any) { _, _ = fmt.Fprintf(t.out, format, args...) }

// Command from-dtm moves money between two banks with DTM's own client, unmodified: as a
// saga, as TCC, and as a message. It brings along what it needs, Postgres and
// "handfast dev": run it in its directory with
//
//	go run .
//
// The same program runs with DTM's server, which shows the same:
//
//	go run . -dtm http://127.0.0.1:36789/api/dtmsvr
//
// The interesting parts are transfer.go and bank.go, which know nothing of Handfast, and
// own.go, which is the next step.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/logger"

	"github.com/handfast/handfast/tm"
)

var dtmURL = flag.String("dtm", "", "`URL` of a coordinator, such as http://127.0.0.1:36789/api/dtmsvr; empty: start one of Handfast")

// DTM's client has these once for the whole process.
func init() {
	dtmcli.SetCurrentDBType(dtmcli.DBTypePostgres)
	logger.InitLog("error")
}

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, *dtmURL)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "from-dtm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, dtm string) (err error) {
	t := &town{out: out}
	defer func() { err = errors.Join(err, t.stop()) }()
	if err := t.start(ctx, dtm); err != nil {
		return err
	}
	if err := t.show(ctx, "at first"); err != nil {
		return err
	}
	for _, scene := range []func(context.Context) error{t.passes, t.refused, t.confirmed, t.cancelled, t.sent, t.diesBeforeSubmit, t.native} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	return nil
}

// carl's account is closed: nobody can deposit there.
func from(amount int) money { return money{"anna", amount} }
func bert(amount int) money { return money{"bert", amount} }
func carl(amount int) money { return money{"carl", amount} }

func (t *town) passes(ctx context.Context) error {
	t.title("A saga: 30 from anna to bert")
	gid := dtmcli.MustGenGid(t.dtm)
	return t.ended(ctx, gid, t.saga(gid, from(30), bert(30)))
}

func (t *town) refused(ctx context.Context) error {
	t.title("A saga: 30 from anna to carl, whose account is closed")
	gid := dtmcli.MustGenGid(t.dtm)
	return t.ended(ctx, gid, t.saga(gid, from(30), carl(30)))
}

func (t *town) confirmed(ctx context.Context) error {
	t.title("TCC: 20 from anna to bert")
	gid := dtmcli.MustGenGid(t.dtm)
	return t.ended(ctx, gid, t.tcc(gid, from(20), bert(20), func() error { return t.show(ctx, "tried") }))
}

func (t *town) cancelled(ctx context.Context) error {
	t.title("TCC: 20 from anna to carl")
	gid := dtmcli.MustGenGid(t.dtm)
	return t.ended(ctx, gid, t.tcc(gid, from(20), carl(20), func() error { return nil }))
}

func (t *town) sent(ctx context.Context) error {
	t.title("A message: 10 from anna to bert")
	gid := dtmcli.MustGenGid(t.dtm)
	return t.ended(ctx, gid, t.message(gid, from(10), bert(10)))
}

func (t *town) diesBeforeSubmit(ctx context.Context) error {
	t.title("A message: 5 from anna to bert, and the sender dies between commit and submit")
	gid := dtmcli.MustGenGid(t.dtm)
	return t.ended(ctx, gid, t.cutOff(gid, from(5), bert(5)))
}

// native needs Handfast's own API, which only the coordinator that was started here has.
func (t *town) native(ctx context.Context) error {
	if t.tm == nil {
		return nil
	}
	t.title("A saga of Handfast's own with the same banks: 5 from anna to bert, 5 from anna to carl")
	if err := t.own(ctx, t.tm, from(5), bert(5)); err != nil {
		return err
	}
	if err := t.show(ctx, "committed"); err != nil {
		return err
	}
	err := t.own(ctx, t.tm, from(5), carl(5))
	if !errors.Is(err, tm.ErrRolledBack) {
		return fmt.Errorf("want it rolled back, got: %w", err)
	}
	return t.show(ctx, "rolled back")
}

// ended shows what a transaction's client was told, how it ended, and the balances.
func (t *town) ended(ctx context.Context, gid string, told error) error {
	if told != nil && !strings.Contains(told.Error(), dtmcli.ResultFailure) {
		return told
	}
	if told != nil {
		t.say("the client is told that it failed")
	}
	status, err := t.wait(ctx, gid)
	if err != nil {
		return err
	}
	return t.show(ctx, status)
}

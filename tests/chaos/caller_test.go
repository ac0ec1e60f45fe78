//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidhttp"
)

// caller is one worker of the process that begins transactions.
type caller struct {
	p        part
	m        *tm.Manager
	http     *http.Client
	sessions [2]*pgxpool.Pool
	told     func(line string)
	r        *rand.Rand
	front    *front
	kinds    []kind
	weight   int    // of all of them
	ring     []told // what was told of late, to be asked for again
}

// told is what somebody was told about a transaction.
type told struct {
	id      xid.ID
	gid     string // instead, of DTM's
	outcome string
}

// What is told.
const (
	committed  = "committed"
	rolledBack = "rolledback"
	unknown    = "unknown"
)

func outcome(err error) string {
	switch {
	case err == nil, errors.Is(err, tm.ErrCommitted):
		return committed
	case errors.Is(err, tm.ErrRolledBack):
		return rolledBack
	case errors.Is(err, tm.ErrNotSettled):
		return committed // as it is not rolled back
	default:
		return unknown
	}
}

// kind is one kind of transaction: its name is that of the transaction, from which the
// judge knows what it leaves.
type kind struct {
	name   string
	weight int
	in     func(*caller, context.Context) error           // inside of a transaction of the manager
	own    func(*caller, context.Context) (xid.ID, error) // begins one itself
	dtm    func(*caller, context.Context) (gid, outcome string)
	plain  func(*caller, context.Context) error // of which the caller knows no XID
}

var kinds = []kind{
	{name: "at", weight: 5, in: transfer("at", "at")},
	{name: "xa", weight: 4, in: transfer("xa", "xa")},
	{name: "atxa", weight: 3, in: transfer("at", "xa")},
	{name: "inner", weight: 4, in: (*caller).inner},
	{name: "tcc", weight: 3, in: (*caller).reserve},
	{name: "all", weight: 5, in: (*caller).all},
	{name: "saga", weight: 4, own: (*caller).saga},
	{name: "message", weight: 2, own: (*caller).message},
	{name: "prepared", weight: 2, own: (*caller).prepared},
	{name: "workflow", weight: 3, own: (*caller).workflow},
	{name: "dtm-saga", weight: 3, dtm: (*caller).dtmSaga},
	{name: "dtm-msg", weight: 3, dtm: (*caller).dtmMessage},
	{name: "dtm-tcc", weight: 3, dtm: (*caller).dtmTCC},
	{name: "publish", weight: 2, plain: (*caller).published},
	{name: "session", weight: 4, plain: (*caller).plain},
}

func (c *caller) intn(n int) int { return c.r.IntN(n) }

var errRefused = errors.New("refused on purpose")

func (c *caller) refused() bool { return c.intn(6) == 0 }

// maybe fails now and then, after all was done.
func (c *caller) maybe() error {
	if c.refused() {
		return errRefused
	}
	return nil
}

func (c *caller) post(ctx context.Context, to string, q url.Values) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to+"?"+q.Encode(), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s: %s", to, resp.Status, text)
	}
	return err
}

// work goes on until ctx ends, and then finishes what it is at.
func (p part) call(ctx context.Context) (err error) {
	cc, err := client.Dial(p.Coordinator, client.WithLogger(p.log()), client.WithName("caller"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cc.Close()) }()
	file, err := os.OpenFile(p.Told, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	shared := caller{p: p, m: tm.New(cc), http: web(&xidhttp.Transport{Base: http.DefaultTransport}),
		// One write a line: it is there even if this process is killed in the next moment.
		told: func(line string) { _, _ = file.WriteString(line + "\n") }}
	var hangUp func() error
	if shared.front, hangUp, err = p.front(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hangUp()) }()
	for _, k := range kinds {
		if strings.HasPrefix(k.name, p.Only) {
			shared.kinds, shared.weight = append(shared.kinds, k), shared.weight+k.weight
		}
	}
	for i, dsn := range p.Plain {
		if shared.sessions[i], err = pgxpool.New(ctx, dsn); err != nil {
			return err
		}
		defer shared.sessions[i].Close()
	}
	var workers sync.WaitGroup
	for i := range p.Workers {
		workers.Go(func() {
			c := shared
			c.r = rand.New(rand.NewPCG(p.Seed, uint64(i)))
			for ctx.Err() == nil {
				c.one()
			}
		})
	}
	workers.Wait()
	return nil
}

// one is one transaction of chance.
func (c *caller) one() {
	n := c.intn(c.weight)
	for _, k := range c.kinds {
		if n -= k.weight; n < 0 {
			c.run(k)
			return
		}
	}
}

func (c *caller) run(k kind) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	switch {
	case k.in != nil:
		var id xid.ID
		opts := []tm.Option{tm.WithName(k.name), tm.WithTimeout(time.Duration(3+c.intn(6)) * time.Second)}
		if c.intn(3) == 0 {
			opts = append(opts, tm.WithWaitSettled())
		}
		err := c.m.Do(ctx, func(ctx context.Context) error {
			id, _ = xid.FromContext(ctx)
			return k.in(c, ctx)
		}, opts...)
		c.heard(k, id, err)
	case k.own != nil:
		id, err := k.own(c, ctx)
		c.heard(k, id, err)
	case k.dtm != nil:
		gid, outcome := k.dtm(c, ctx)
		c.told(k.name + " " + gid + " " + outcome)
		c.remember(told{gid: gid, outcome: outcome})
	default:
		if err := k.plain(c, ctx); err != nil {
			c.told(k.name + " - failed")
		} else {
			c.told(k.name + " - done")
		}
	}
	if ctx.Err() != nil || c.intn(4) > 0 {
		return
	}
	// Whatever was told is told again.
	if len(c.ring) > 0 {
		c.ask(ctx, c.ring[c.intn(len(c.ring))])
	}
}

func (c *caller) heard(k kind, id xid.ID, err error) {
	if id.IsZero() {
		return // it was not even begun
	}
	t := told{id: id, outcome: outcome(err)}
	c.told(k.name + " " + id.String() + " " + t.outcome)
	c.remember(t)
}

func (c *caller) remember(t told) {
	if c.ring = append(c.ring, t); len(c.ring) > 50 {
		c.ring = c.ring[1:]
	}
}

func (c *caller) ask(ctx context.Context, t told) {
	if t.gid != "" {
		if o := c.front.query(ctx, t.gid); o != "" {
			c.told("asked " + t.gid + " " + o)
		}
		return
	}
	o, err := c.m.Outcome(ctx, t.id)
	if err != nil {
		return // the judge asks, too
	}
	switch o {
	case pb.Outcome_OUTCOME_COMMITTED:
		c.told("asked " + t.id.String() + " " + committed)
	case pb.Outcome_OUTCOME_ROLLED_BACK:
		c.told("asked " + t.id.String() + " " + rolledBack)
	case pb.Outcome_OUTCOME_UNDECIDED, pb.Outcome_OUTCOME_UNSPECIFIED:
		if t.outcome != unknown {
			c.told("asked " + t.id.String() + " undecided")
		}
	}
}

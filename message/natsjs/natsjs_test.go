package natsjs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/message/broker"
	"github.com/handfast/handfast/message/natsjs"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

func to(payload string, opts ...target.Option) target.Target {
	return broker.To(group, subject, append([]target.Option{target.Payload([]byte(payload))}, opts...)...)
}

func TestAMessageArrivesOnceWithItsHeaders(t *testing.T) {
	t.Parallel()
	n, c := startNATS(t), startTC(t)
	n.stream()
	cl := c.dial()
	p := attach(t, cl, n.connect(), nil)
	m := tm.New(cl)
	id := send(t, m, to("seven", target.Header("tenant", "blue")))
	settled(t, m, id)
	check(t, p.next(t))
	n.want("seven")
	got := n.messages()[0]
	call, err := fence.FromValues(got.Header.Values)
	check(t, err)
	want := fence.Call{XID: id, Branch: xid.BranchOf(id, "to-1"), Action: fence.Forward, Attempt: 1}
	if call != want {
		t.Errorf("the headers name %+v, want %+v", call, want)
	}
	if got.Subject != subject || got.Header.Get("tenant") != "blue" || got.Header.Get(jetstream.MsgIDHeader) != want.Key() || len(got.Header) != 7 {
		t.Errorf("subject %s, headers %v", got.Subject, got.Header)
	}
	// Nobody who consumes it joins the transaction by mistake.
	if v := got.Header.Get(xid.Header); v != "" {
		t.Errorf("%s is %s", xid.Header, v)
	}
}

func TestAMessageFollowsItsTransaction(t *testing.T) {
	t.Parallel()
	errStop := errors.New("stop")
	for name, end := range map[string]error{"commit": nil, "rollback": errStop} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNATS(t)
			n.stream()
			w := hftest.New(t, cluster, "CREATE TABLE orders (id int PRIMARY KEY)", []string{"orders"})
			attach(t, w.Client, n.connect(), nil)
			m := tm.New(w.Client)

			over := func(id string) {
				a, err := w.Client.Commit(w.Limited(), &pb.CommitRequest{Xid: id, WaitSettled: true})
				check(t, err)
				hftest.Equal(t, "committed", a.GetOutcome() == pb.Outcome_OUTCOME_COMMITTED, end == nil)
			}

			// A plain local transaction.
			var plain, global string
			err := pgx.BeginFunc(w.Limited(), w.Pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(w.Limited(), "INSERT INTO orders VALUES (1)")
				check(t, err)
				check(t, rm.Publish(w.Limited(), tx, to("plain")))
				check(t, tx.QueryRow(w.Limited(), "SELECT xid FROM handfast.fence WHERE state = 'L'").Scan(&plain))
				return end
			})
			if !errors.Is(err, end) {
				t.Fatal(err)
			}
			over(plain)

			// A global one.
			err = m.Do(w.Limited(), func(ctx context.Context) error {
				id, _ := xid.FromContext(ctx)
				global = id.String()
				check(t, pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
					_, err := tx.Exec(ctx, "INSERT INTO orders VALUES (2)")
					return errors.Join(err, rm.Publish(ctx, tx, to("global")))
				}))
				check(t, message.New("enlisted").To(to("enlisted")).Enlist(ctx, m))
				return end
			})
			if !errors.Is(err, end) {
				t.Fatal(err)
			}
			over(global)
			got := []string{}
			for _, m := range n.messages() {
				got = append(got, string(m.Data))
			}
			slices.Sort(got)
			want := "[]"
			if end == nil {
				want = "[enlisted global plain]"
			}
			hftest.Equal(t, "messages", fmt.Sprint(got), want)
			hftest.Equal(t, "orders", hftest.Value[int](w, "SELECT count(*) FROM orders"), map[bool]int{true: 2}[end == nil])
		})
	}
}

func TestNATSIsDownWhenItIsDecided(t *testing.T) {
	t.Parallel()
	n, c := startNATS(t), startTC(t)
	n.stream()
	cl := c.dial()
	js := n.connect()
	p := attach(t, cl, js, nil)
	m := tm.New(cl)
	lost := js.Conn().StatusChanged(nats.RECONNECTING)
	n.stop()
	await(t, lost)
	id := send(t, m, to("seven"))
	check(t, m.Wait(limited(t), id)) // decided
	for range 3 {
		if err := p.next(t); err == nil || !strings.Contains(err.Error(), "no connection to NATS: reconnecting") {
			t.Fatalf("got %v", err)
		}
	}
	n.start()
	settled(t, m, id)
	n.want("seven")
}

// The message is stored, and its acknowledgement does not arrive.
func TestTheAcknowledgementIsLost(t *testing.T) {
	t.Parallel()
	for name, broke := range map[string]func(*natsServer){
		"the connection breaks": func(*natsServer) {},
		"the server restarts":   func(n *natsServer) { n.stop(); n.start() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, c := startNATS(t), startTC(t)
			n.stream()
			cl := c.dial()
			lost := make(chan struct{})
			l := &lossy{broke: func() { broke(n); close(lost) }}
			p := attach(t, cl, n.connect(nats.SetCustomDialer(l)), nil)
			m := tm.New(cl)
			id := send(t, m, to("seven", target.Timeout(time.Second)))
			await(t, lost)
			n.want("seven")
			settled(t, m, id)
			n.want("seven")
			if err := p.next(t); err == nil || !strings.Contains(err.Error(), "no acknowledgement in time") {
				t.Errorf("the first attempt: %v", err)
			}
			for p.next(t) != nil { // NATS may need longer to come back than an attempt takes
				continue
			}
		})
	}
}

func TestTheCoordinatorRestarts(t *testing.T) {
	t.Parallel()
	t.Run("before it is delivered", func(t *testing.T) {
		t.Parallel()
		n, c := startNATS(t), startTC(t)
		n.stream()
		cl := c.dial()
		m := tm.New(cl)
		id := send(t, m, to("seven")) // nobody has the group
		c.stop()
		c.start()
		attach(t, cl, n.connect(), nil)
		settled(t, m, id)
		n.want("seven")
	})
	t.Run("before it learns that it is delivered", func(t *testing.T) {
		t.Parallel()
		n, c := startNATS(t), startTC(t)
		n.stream()
		published, gone := make(chan struct{}), make(chan struct{})
		var once sync.Once
		p := attach(t, c.dial(), n.connect(), func(err error) error {
			once.Do(func() {
				close(published)
				<-gone
				err = errors.Join(err, errors.New("this process was killed"))
			})
			return err
		})
		m := tm.New(c.dial())
		id := send(t, m, to("seven"))
		await(t, published)
		n.want("seven")
		c.stop()
		c.start()
		close(gone)
		settled(t, m, id)
		if err := p.next(t); err == nil {
			t.Error("the first attempt was not lost")
		}
		check(t, p.next(t))
		n.want("seven")
	})
}

// What NATS refuses is tried until somebody has mended it, and told meanwhile.
func TestARefusalNeedsAPersonAndLosesNothing(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 2000)
	for name, c := range map[string]struct {
		payload   string
		before    func(*natsServer)
		attention bool // at once, and not only after some attempts
		want      string
		mend      func(*natsServer)
		messages  []string
	}{
		"no stream": {
			payload: "seven", before: func(*natsServer) {}, attention: true,
			want: `publish to "orders.placed": no stream has the subject; create one, or add the subject to one (a person has to look)`,
			mend: func(n *natsServer) { n.stream() }, messages: []string{"seven"},
		},
		"too large for the server": {
			payload: large, before: func(n *natsServer) { n.stream(); n.stop(); n.opts.MaxPayload = 1024; n.start() }, attention: true,
			want: "the server takes at most 1024, its max_payload",
			mend: func(n *natsServer) { n.stop(); n.opts.MaxPayload = 1 << 20; n.start() }, messages: []string{large},
		},
		"too large for the stream": {
			payload: large, before: func(n *natsServer) { n.stream(func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 }) }, attention: true,
			want: "the stream refuses it: nats: API error: code=400 err_code=10054 description=message size exceeds maximum allowed",
			mend: func(n *natsServer) { n.stream() }, messages: []string{large},
		},
		"the stream is full": {
			payload: "seven", want: "maximum messages exceeded",
			before: func(n *natsServer) {
				full := func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 1, jetstream.DiscardNew }
				n.stream(full)
				_, err := n.connect().Publish(limited(n.tb), subject, []byte("another"))
				check(n.tb, err)
			},
			mend: func(n *natsServer) { n.stream() }, messages: []string{"another", "seven"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, co := startNATS(t), startTC(t)
			c.before(n)
			cl := co.dial()
			attach(t, cl, n.connect(), nil)
			m := tm.New(cl)
			var id xid.ID
			failures, atFirst := 0, false
			answer := co.watch(func() xid.ID { id = send(t, m, to(c.payload)); return id }, func(s *pb.Settlement) bool {
				if s.GetLastError() != "" && failures == 0 {
					failures, atFirst = int(s.GetAttempts()), s.GetAttention()
				}
				return s.GetAttention()
			})
			if failures != 1 || atFirst != c.attention {
				t.Errorf("after %d attempts attention is %t", failures, atFirst)
			}
			if !strings.Contains(answer, c.want) || !strings.HasPrefix(answer, `publish to "orders.placed": `) {
				t.Errorf("LAST ANSWER is %q, want %q", answer, c.want)
			}
			c.mend(n)
			settled(t, m, id)
			n.want(c.messages...)
		})
	}
}

func TestTwoProcessesHaveTheGroup(t *testing.T) {
	t.Parallel()
	t.Run("one without a connection", func(t *testing.T) {
		t.Parallel()
		n, c := startNATS(t), startTC(t)
		n.stream()
		down := startNATS(t)
		js := down.connect()
		down.stop()
		js.Conn().Close() // it gave up
		without, with := attach(t, c.dial(), js, nil), attach(t, c.dial(), n.connect(), nil)
		c.attached(2)
		m := tm.New(c.dial())
		var want []string
		for i := range 10 {
			settled(t, m, send(t, m, to(fmt.Sprint(i))))
			want = append(want, fmt.Sprint(i))
		}
		n.want(want...)
		if err := without.next(t); err == nil || !strings.Contains(err.Error(), "no connection to NATS: closed") {
			t.Errorf("without a connection: %v", err)
		}
		check(t, with.next(t))
	})
	t.Run("both", func(t *testing.T) {
		t.Parallel()
		n, c := startNATS(t), startTC(t)
		n.stream()
		one, two := attach(t, c.dial(), n.connect(), nil), attach(t, c.dial(), n.connect(), nil)
		c.attached(2)
		m := tm.New(c.dial())
		ids := make([]xid.ID, 20)
		want := make([]string, len(ids))
		for i := range ids {
			want[i] = fmt.Sprintf("%02d", i)
			ids[i] = send(t, m, to(want[i]))
		}
		for _, id := range ids {
			settled(t, m, id)
		}
		got := make([]string, 0, len(ids))
		for _, m := range n.messages() {
			got = append(got, string(m.Data))
		}
		slices.Sort(got)
		hftest.Equal(t, "messages", fmt.Sprint(got), fmt.Sprint(want))
		if len(one.ended)+len(two.ended) != len(ids) || len(one.ended) == 0 || len(two.ended) == 0 {
			t.Errorf("%d and %d attempts", len(one.ended), len(two.ended))
		}
	})
}

// After the duplicate window a repetition is a second message, of which the consumer's
// fence makes one effect.
func TestTheFenceTellsARepetitionThatTheStreamDoesNot(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	n.stream(func(c *jetstream.StreamConfig) { c.Duplicates = 100 * time.Millisecond })
	w := hftest.New(t, cluster, "CREATE TABLE shipment (content text)", nil)
	js := n.connect()
	var once sync.Once
	attach(t, w.Client, js, func(err error) error {
		once.Do(func() { err = errors.Join(err, errors.New("the acknowledgement was lost")) })
		return err
	})
	m := tm.New(w.Client)
	id, err := message.New("order placed").To(to("seven"), message.Retry(target.RetryPolicy{First: 2 * time.Second})).Send(w.Limited(), m)
	check(t, err)
	settled(t, m, id)
	n.want("seven", "seven")

	consumer, err := js.CreateConsumer(w.Limited(), "orders", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	check(t, err)
	for i := range 2 {
		msg, err := consumer.Next(jetstream.FetchMaxWait(patience))
		check(t, err)
		call, err := fence.FromValues(msg.Headers().Values)
		check(t, err)
		hftest.Equal(t, "attempt", call.Attempt, uint32(i+1))
		out, err := fence.Run(w.Limited(), w.Pool, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			_, err := tx.Exec(ctx, "INSERT INTO shipment VALUES ($1)", string(msg.Data()))
			return nil, err
		})
		check(t, err)
		hftest.Equal(t, "repeated", out.Repeated, i > 0)
		check(t, msg.DoubleAck(w.Limited()))
	}
	hftest.Equal(t, "shipments", hftest.Value[string](w, "SELECT string_agg(content, ' ') FROM shipment"), "seven")
}

func TestWhatPublishAnswers(t *testing.T) {
	t.Parallel()
	n := startNATS(t, func(o *server.Options) {
		all := &server.SubjectPermission{Allow: []string{">"}}
		o.Users = []*server.User{
			{Username: "all", Permissions: &server.Permissions{Publish: all, Subscribe: all}},
			{Username: "none", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{">"}}, Subscribe: all}},
		}
		o.NoAuthUser = "all"
	})
	n.stream()
	p, denied := natsjs.New(n.connect()), natsjs.New(n.connect(nats.UserInfo("none", "")))
	for name, c := range map[string]struct {
		p         *natsjs.Publisher
		m         broker.Msg
		attention bool
		want      string // "" where it is published
	}{
		"published":       {p: p, m: broker.Msg{Subject: subject, ID: "1"}},
		"the ID is ours":  {p: p, m: broker.Msg{Subject: subject, ID: "1", Headers: map[string]string{jetstream.MsgIDHeader: "2"}}},
		"wildcard":        {p: p, m: broker.Msg{Subject: "orders.*", ID: "3"}, attention: true, want: "without wildcards"},
		"all below":       {p: p, m: broker.Msg{Subject: "orders.>", ID: "3"}, attention: true, want: "without wildcards"},
		"an empty word":   {p: p, m: broker.Msg{Subject: "orders..x", ID: "3"}, attention: true, want: "without wildcards"},
		"a space":         {p: p, m: broker.Msg{Subject: "orders x", ID: "3"}, attention: true, want: "invalid subject"},
		"may not publish": {p: denied, m: broker.Msg{Subject: subject, ID: "3"}, want: "no acknowledgement in time (last error of the connection: nats: permissions violation"},
		"an expectation": {p: p, m: broker.Msg{Subject: subject, ID: "3", Headers: map[string]string{jetstream.ExpectedStreamHeader: "x"}},
			attention: true, want: "the stream refuses it: nats: API error: code=400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := limited(t)
			if c.p == denied {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
			}
			err := c.p.Publish(ctx, c.m)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || errors.Is(err, target.ErrAttention) != c.attention {
				t.Errorf("got %v, want %q, attention %t", err, c.want, c.attention)
			}
		})
	}
	t.Cleanup(func() { n.want("") }) // both have one ID
}

package natsjs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/message/broker"
	"github.com/handfast/handfast/message/natsjs"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

const (
	patience = 30 * time.Second
	group    = "brokers"
	subject  = "orders.placed"
)

var cluster = pgtest.New(pgserver.Options{})

func TestMain(m *testing.M) {
	code := cluster.Run(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// limited gives a context that ends when a test has waited long enough.
func limited(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// natsServer is a real one in this process, with its files on disk.
type natsServer struct {
	tb   testing.TB
	opts server.Options
	s    *server.Server // nil: it is down
}

func startNATS(tb testing.TB, change ...func(*server.Options)) *natsServer {
	tb.Helper()
	n := &natsServer{tb: tb, opts: server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: tb.TempDir(), NoSigs: true, NoLog: true,
	}}
	for _, c := range change {
		c(&n.opts)
	}
	n.start()
	tb.Cleanup(n.stop)
	return n
}

// start starts it, or starts it again with the same files at the same port.
func (n *natsServer) start() {
	n.tb.Helper()
	opts := n.opts // the server changes it
	s, err := server.NewServer(&opts)
	check(n.tb, err)
	s.Start()
	if !s.ReadyForConnections(patience) {
		n.tb.Fatal("NATS did not start")
	}
	n.s, n.opts.Port = s, s.Addr().(*net.TCPAddr).Port
}

func (n *natsServer) stop() {
	if n.s != nil {
		n.s.Shutdown()
		n.s.WaitForShutdown()
		n.s = nil
	}
}

// connect gives a connection that comes back as fast as it can.
func (n *natsServer) connect(opts ...nats.Option) jetstream.JetStream {
	n.tb.Helper()
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", n.opts.Port), append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.RetryOnFailedConnect(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // instead of printing them
	}, opts...)...)
	check(n.tb, err)
	n.tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	check(n.tb, err)
	return js
}

// stream makes the stream that has the subject.
func (n *natsServer) stream(change ...func(*jetstream.StreamConfig)) {
	n.tb.Helper()
	cfg := jetstream.StreamConfig{Name: "orders", Subjects: []string{"orders.>"}}
	for _, c := range change {
		c(&cfg)
	}
	_, err := n.connect().CreateOrUpdateStream(limited(n.tb), cfg)
	check(n.tb, err)
}

// messages gives all messages of the stream, in order.
func (n *natsServer) messages() (all []*jetstream.RawStreamMsg) {
	n.tb.Helper()
	s, err := n.connect().Stream(limited(n.tb), "orders")
	check(n.tb, err)
	state := s.CachedInfo().State
	for i := state.FirstSeq; i <= state.LastSeq && state.Msgs > 0; i++ {
		m, err := s.GetMsg(limited(n.tb), i)
		check(n.tb, err)
		all = append(all, m)
	}
	return all
}

// want fails the test where the stream holds other payloads.
func (n *natsServer) want(payloads ...string) {
	n.tb.Helper()
	got := make([]string, 0, len(payloads))
	for _, m := range n.messages() {
		got = append(got, string(m.Data))
	}
	if fmt.Sprint(got) != fmt.Sprint(payloads) {
		n.tb.Errorf("the stream holds %.200q, want %.200q", got, payloads)
	}
}

// coordinator is a real one in this process, with its store on disk.
type coordinator struct {
	tb   testing.TB
	dir  string
	addr string
	stop func()
}

func startTC(tb testing.TB) *coordinator {
	tb.Helper()
	c := &coordinator{tb: tb, dir: tb.TempDir(), addr: "127.0.0.1:0"}
	c.start()
	tb.Cleanup(func() { c.stop() })
	return c
}

// start starts it, or starts it again with the same store at the same port.
func (c *coordinator) start() {
	c.tb.Helper()
	lis, err := new(net.ListenConfig).Listen(context.Background(), "tcp", c.addr)
	for late := time.Now().Add(patience); err != nil && time.Now().Before(late); {
		time.Sleep(time.Millisecond) // the system may hold the port a little
		lis, err = new(net.ListenConfig).Listen(context.Background(), "tcp", c.addr)
	}
	check(c.tb, err)
	s, err := tc.NewServer(context.Background(), tc.Config{Listener: lis, StoreDir: c.dir, DrainTimeout: 5 * time.Second, Log: quiet()})
	check(c.tb, err)
	c.addr = s.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.tb.Error(err)
		}
	})
}

func (c *coordinator) dial() *client.Client {
	c.tb.Helper()
	cl, err := client.Dial(c.addr, client.WithLogger(quiet()))
	check(c.tb, err)
	c.tb.Cleanup(func() { _ = cl.Close() })
	return cl
}

// attached waits until so many processes have the group.
func (c *coordinator) attached(n int) {
	c.tb.Helper()
	conn, err := grpc.NewClient(c.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(c.tb, err)
	defer conn.Close() //nolint:errcheck // it was only read
	for ctx := limited(c.tb); ; {
		st, err := pb.NewAdminClient(conn).Status(ctx, &pb.StatusRequest{})
		check(c.tb, err)
		have := 0
		for _, cl := range st.GetClients() {
			if len(cl.GetResources()) > 0 {
				have++
			}
		}
		if have == n {
			return
		}
	}
}

// watch waits until the delivery of a message is as it should be, and gives its last
// answer. The message is sent once the watch has begun.
func (c *coordinator) watch(send func() xid.ID, until func(*pb.Settlement) bool) string {
	c.tb.Helper()
	conn, err := grpc.NewClient(c.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(c.tb, err)
	defer conn.Close() //nolint:errcheck // it was only read
	w, err := pb.NewAdminClient(conn).Watch(limited(c.tb), &pb.WatchRequest{})
	check(c.tb, err)
	_, err = w.Header() // every change from now on is seen
	check(c.tb, err)
	id := send()
	for {
		ev, err := w.Recv()
		check(c.tb, err)
		if ev.GetTransaction().GetXid() != id.String() {
			continue
		}
		for _, s := range ev.GetTransaction().GetSettlements() {
			if until(s) {
				return s.GetLastError()
			}
		}
	}
}

// attempts is a Publisher that tells of each attempt.
type attempts struct {
	broker.Publisher
	ended chan error // of each, nil included
	after func(error) error
}

func (a *attempts) Publish(ctx context.Context, m broker.Msg) error {
	err := a.Publisher.Publish(ctx, m)
	if a.after != nil {
		err = a.after(err)
	}
	a.ended <- err
	return err
}

// attach makes a process that has the group; after may change what an attempt answers.
func attach(tb testing.TB, c *client.Client, js jetstream.JetStream, after func(error) error) *attempts {
	tb.Helper()
	a := &attempts{Publisher: natsjs.New(js), ended: make(chan error, 1000), after: after}
	_, err := broker.Register(handlers.New(group), a).Attach(c)
	check(tb, err)
	return a
}

// next waits for the end of an attempt.
func (a *attempts) next(tb testing.TB) error {
	tb.Helper()
	return await(tb, a.ended)
}

// await waits for what has to come.
func await[T any](tb testing.TB, c <-chan T) (v T) {
	tb.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		tb.Fatal("it did not come")
	}
	return v
}

// send sends a message that is tried again soon.
func send(tb testing.TB, m *tm.Manager, to target.Target) xid.ID {
	tb.Helper()
	id, err := message.New("order placed").To(to, message.Retry(target.RetryPolicy{First: 5 * time.Millisecond, Max: 20 * time.Millisecond})).
		Send(limited(tb), m)
	check(tb, err)
	return id
}

// settled waits until a message is delivered.
func settled(tb testing.TB, m *tm.Manager, id xid.ID) {
	tb.Helper()
	check(tb, m.Wait(limited(tb), id, tm.WithWaitSettled()))
}

// lossy gives a dialer of which the first connection breaks as an acknowledgement
// arrives, after broke was called: the message is stored, and nobody is told.
type lossy struct {
	once  sync.Once
	broke func()
}

func (l *lossy) Dial(network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return &lossyConn{Conn: c, l: l}, nil
}

type lossyConn struct {
	net.Conn
	l *lossy
}

var errLost = errors.New("the connection broke")

func (c *lossyConn) Read(b []byte) (n int, err error) {
	n, err = c.Conn.Read(b)
	if bytes.Contains(b[:n], []byte(`"stream":"orders"`)) {
		c.l.once.Do(func() {
			_ = c.Close()
			c.l.broke()
			n, err = 0, errLost
		})
	}
	return n, err
}

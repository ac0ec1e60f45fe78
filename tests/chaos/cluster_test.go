//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
)

// How a service can be wrong on purpose, to see the judgement fail.
const (
	plantedNoFence          = "an action runs without its fence"
	plantedDeafCompensation = "a compensation is answered and not carried out"
	plantedOutside          = "a branch is left out of its transaction"
	plantedLostStore        = "the coordinator's store is thrown away when it is killed"
	plantedNoBarrier        = "a service of DTM runs without its barrier"
	plantedCredulous        = "a sender of DTM says that all was sent"
)

// setup is what a world is made of.
type setup struct {
	seed       uint64
	containers bool
	workers    int
	planted    string
	only       string        // transactions whose names begin so
	kinds      []string      // of faults; nil: all
	rest       time.Duration // bound of the time until nothing is under way
}

// world is all parts, the links between them, and what is known to be wrong.
type world struct {
	t    *testing.T
	s    setup
	seed uint64
	dir  string
	bin  string

	engine      *engine // nil: no containers
	disk        *disk
	links       map[string]*link
	db          [2]database
	coordinator node
	services    [2]*process
	caller      *process
	admin       pb.AdminClient
	at          string    // the coordinator, past the links
	dtm         [2]string // the same for clients of DTM: HTTP and gRPC
	web         [2]string
	told        string
	books       books

	counts counts
	events events
	mu     sync.Mutex
	faults []string // what is wrong
	about  []string // XIDs that it is about
	more   int
}

// wrongf says what is wrong.
func (w *world) wrongf(id, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.events.add("WRONG: %s %s", id, text)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) == 50 {
		w.more++
		return
	}
	w.faults = append(w.faults, strings.TrimSpace(id+" "+text))
	if id != "" && len(w.about) < 10 && !slices.Contains(w.about, id) {
		w.about = append(w.about, id)
	}
}

// wrong is what is wrong so far.
func (w *world) wrong() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(w.faults)
	if w.more > 0 {
		out = append(out, fmt.Sprintf("and %d more", w.more))
	}
	return out
}

func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{t: t, s: s, seed: s.seed, links: map[string]*link{}}
	// Not t.TempDir: it stays where something is wrong.
	var err error
	w.dir, err = makeDir()
	w.check(err)
	t.Cleanup(func() {
		if t.Failed() {
			w.logErr(os.Rename(w.dir, w.kept()))
		} else {
			w.logErr(os.RemoveAll(w.dir))
		}
	})
	w.bin = binary(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if s.containers {
		w.engine, err = newEngine(ctx)
		w.check(err)
		t.Cleanup(w.engine.close)
	}
	w.disk, err = newDisk(filepath.Join(w.dir, "store"))
	w.check(err)
	t.Cleanup(func() {
		if t.Failed() && w.disk.canBeFull() { // what is in memory is gone in a moment
			w.logErr(os.CopyFS(filepath.Join(w.dir, "store-kept"), os.DirFS(w.disk.dir)))
		}
		w.disk.close()
	})
	w.startDatabases(ctx)
	w.startCoordinator(ctx)
	w.startServices(ctx)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) startDatabases(ctx context.Context) {
	w.t.Helper()
	var wg sync.WaitGroup
	var errs [2]error
	for i, name := range []string{"a", "b"} {
		wg.Go(func() { // they take their time
			if w.engine != nil {
				var c *contained
				c, errs[i] = newContained(ctx, w.engine, name, fmt.Sprintf("%s.%d", w.engine.subnet, 10+i))
				w.db[i] = c
			} else {
				var s *server
				if s, errs[i] = newServer(ctx, "pg"+name); s != nil {
					w.db[i] = s
					w.t.Cleanup(func() {
						ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
						defer cancel()
						s.resume()
						_ = s.srv.Stop(ctx)
					})
				}
			}
			if errs[i] == nil {
				errs[i] = prepare(ctx, w.db[i].dsn())
			}
		})
	}
	wg.Wait()
	w.check(errors.Join(errs[:]...))
	for i, name := range []string{"a", "b"} {
		w.link(name+">pg"+name, w.db[i].address())
		w.link("plain>pg"+name, w.db[i].address())
	}
}

func prepare(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if err := undolog.Install(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, schema); err != nil {
		return err
	}
	_, err = undolog.ProtectTables(ctx, conn, protected, undolog.WithCommittedView())
	return err
}

// link makes a link, which ends with the test.
func (w *world) link(name, to string) *link {
	w.t.Helper()
	listen := "127.0.0.1:0"
	if w.engine != nil {
		listen = "0.0.0.0:0"
	}
	l, err := newLink(name, listen, to)
	w.check(err)
	w.t.Cleanup(l.close)
	w.links[name] = l
	return l
}

func (w *world) via(name string) string { return "127.0.0.1:" + strconv.Itoa(w.links[name].port()) }

// given has the ports of all parts of this process.
var given sync.Map

// port gives one that no connection gets as its near end, and no part of another world: a
// part that is down for a while must find its port free.
func port(r *rand.Rand) (string, error) {
	for range 100 {
		addr := "127.0.0.1:" + strconv.Itoa(20000+r.IntN(12000))
		if _, taken := given.LoadOrStore(addr, true); taken {
			continue
		}
		if lis, err := net.Listen("tcp", addr); err == nil {
			return addr, lis.Close()
		}
	}
	return "", errors.New("no free port")
}

func (w *world) port() string {
	w.t.Helper()
	addr, err := port(rand.New(rand.NewPCG(rand.Uint64(), 0)))
	w.check(err)
	return addr
}

// settings are those of the coordinator, beside where it listens and keeps its store.
var settings = []string{"--default-timeout", "10s", "--retention", retention.String(), "--drain-timeout", "1s", "--shards", "2", "--dtm"}

// retention is how long the coordinator knows how a transaction ended: not for all of a
// long run, so that its forgetting is tried, too.
const retention = 15 * time.Minute

func (w *world) startCoordinator(ctx context.Context) {
	w.t.Helper()
	ready := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := w.admin.Status(ctx, &pb.StatusRequest{})
		return err
	}
	if w.engine != nil {
		w.check(w.engine.build(ctx, filepath.Join(w.dir, "image"), w.bin, root(w.t)))
		c := &container{e: w.engine, called: "coordinator", ip: w.engine.subnet + ".20", ready: ready,
			alone: func(n node, err error) { w.wrongf("", "the coordinator ended by itself: %v", err) }}
		c.run = append([]string{"--user", "0:0", "-v", w.disk.dir + ":/data", w.engine.prefix + "image", "server", "--dtm-http", ":36789", "--dtm-grpc", ":36790"}, settings...)
		w.coordinator, w.at, w.dtm = c, c.ip+":4263", [2]string{c.ip + ":36789", c.ip + ":36790"}
	} else {
		w.at, w.dtm = w.port(), [2]string{w.port(), w.port()}
		w.coordinator = &process{called: "coordinator", ready: ready, alone: w.endedAlone, make: func() *exec.Cmd {
			return exec.Command(w.bin, append([]string{
				"server", "--listen", w.at, "--store-dir", filepath.Join(w.disk.dir, "data"), "--dtm-http", w.dtm[0], "--dtm-grpc", w.dtm[1],
			}, settings...)...)
		}}
	}
	cc, err := grpc.NewClient("passthrough:///"+w.at, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}, MinConnectTimeout: time.Second}))
	w.check(err)
	w.t.Cleanup(func() { _ = cc.Close() })
	w.admin = pb.NewAdminClient(cc)
	w.t.Cleanup(func() { w.coordinator.kill() })
	w.check(w.coordinator.start(ctx))
	for _, name := range []string{"a", "b", "caller"} {
		w.link(name+">coordinator", w.at)
	}
	w.link("dtm-http>coordinator", w.dtm[0])
	w.link("dtm-grpc>coordinator", w.dtm[1])
}

func (w *world) endedAlone(p *process, err error) {
	w.wrongf("", "%s ended by itself: %v", p.called, err)
}

func (w *world) startServices(ctx context.Context) {
	w.t.Helper()
	host := "127.0.0.1"
	if w.engine != nil {
		host = w.engine.gateway()
	}
	caller := part{Role: "caller", Name: "caller", Coordinator: w.via("caller>coordinator"),
		DTM: [2]string{w.via("dtm-http>coordinator"), w.via("dtm-grpc>coordinator")}, Workers: w.s.workers, Only: w.s.only, Seed: w.seed}
	var listen [2]string
	for i, name := range []string{"a", "b"} {
		listen[i] = w.port()
		w.web[i] = "http://" + listen[i]
		caller.Targets[i] = fmt.Sprintf("http://%s:%d", host, w.link("coordinator>"+name, listen[i]).port())
		w.link("caller>"+name, listen[i])
		caller.Services[i] = "http://" + w.via("caller>"+name)
		caller.Plain[i] = w.dsnVia("plain>pg"+name, i)
	}
	w.link("a>b", listen[1])
	for i, name := range []string{"a", "b"} {
		p := part{Role: "service", Name: name, Listen: listen[i], Coordinator: w.via(name + ">coordinator"), DSN: w.dsnVia(name+">pg"+name, i),
			Peer: "http://" + w.via("a>b"), Targets: caller.Targets, Planted: w.s.planted}
		w.services[i] = &process{called: name, make: p.command, alone: w.endedAlone, ready: func(ctx context.Context) error {
			_, err := w.busy(ctx, i)
			return err
		}}
		w.t.Cleanup(w.services[i].kill)
		w.check(w.services[i].start(ctx))
	}
	w.told = filepath.Join(w.dir, "told")
	caller.Told = w.told
	w.caller = &process{called: "caller", alone: w.endedAlone, ready: func(context.Context) error { return nil }, make: func() *exec.Cmd {
		caller.Seed++ // another sequence with each start
		return caller.command()
	}}
	w.t.Cleanup(w.caller.kill)
}

// dsnVia is that of a database over a link.
func (w *world) dsnVia(link string, i int) string {
	return strings.Replace(w.db[i].dsn(), w.db[i].address(), w.via(link), 1) + "&connect_timeout=3"
}

// busy asks a service, past the links, for the calls under way.
func (w *world) busy(ctx context.Context, i int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.web[i]+"/busy", http.NoBody)
	if err != nil {
		return "", err
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// nodes are all that run.
func (w *world) nodes() []node {
	return []node{w.coordinator, w.services[0], w.services[1], w.caller, w.db[0], w.db[1]}
}

func (w *world) node(name string) node {
	for _, n := range w.nodes() {
		if n.name() == name {
			return n
		}
	}
	panic("no node " + name)
}

package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/dtm"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
)

const (
	// patience bounds one run.
	patience = time.Minute
	// timeout is that of transactions. A caller who lives through it all loses none, so it
	// is hardly ever waited for.
	timeout = 20 * time.Second
	// storeDir is where the store is on the drive.
	storeDir = "data/store"
)

var quiet = slog.New(slog.DiscardHandler)

// The coordinator dies again and again; by default the pauses grow to two minutes.
var fastDial = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond},
	MinConnectTimeout: 5 * time.Second,
})

// life is one coordinator, from its start to its end.
type life struct {
	drive *drive
	lis   []*outlet
	dead  atomic.Bool // nobody hears it any more
	srv   *tc.Server
	stop  context.CancelFunc
	ended chan struct{}
	err   error // of Serve, once ended is closed
}

// world is a coordinator on a drive, with everybody who talks to it.
type world struct {
	gates  [2]*gate // Handfast's API, and DTM's
	wrap   func(store.Store) store.Store
	admin  pb.AdminClient
	cc     *grpc.ClientConn
	memory uint64         // what the store keeps before it begins another log
	mute   bool           // nobody is called over HTTP
	after  sync.WaitGroup // what is left of lives whose power went
	lives  int
}

func newWorld() (w *world, err error) {
	w = &world{memory: 64 << 10, wrap: func(s store.Store) store.Store { return s }}
	for i := range w.gates {
		if w.gates[i], err = newGate(); err != nil {
			return nil, err
		}
	}
	w.cc, err = grpc.NewClient("passthrough:///"+w.gates[0].addr(), grpc.WithTransportCredentials(insecure.NewCredentials()), fastDial)
	if err != nil {
		return nil, err
	}
	w.admin = pb.NewAdminClient(w.cc)
	return w, nil
}

func (w *world) close() {
	_ = w.cc.Close()
	for _, g := range w.gates {
		g.close()
	}
	w.after.Wait()
}

// errPower: the power went before the coordinator was up.
var errPower = errors.New("the power is gone")

// start starts a coordinator on a drive. Any other error than errPower is what the
// coordinator says itself.
func (w *world) start(d *drive) (*life, error) {
	w.lives++
	l := &life{drive: d, ended: make(chan struct{})}
	for _, g := range w.gates {
		l.lis = append(l.lis, g.outlet())
	}
	up := make(chan error, 1)
	go func() { up <- w.open(l) }()
	select {
	case err := <-up:
		if err != nil {
			l.cut()
			return nil, err
		}
		return l, nil
	case <-d.gone:
		l.cut()
		w.after.Go(func() { // it may have come up meanwhile
			if err := <-up; err == nil {
				_ = l.end()
			}
		})
		close(d.free)
		return nil, errPower
	}
}

// open opens the store and serves.
func (w *world) open(l *life) error {
	st, err := pebblestore.Open(storeDir, pebblestore.WithFS(l.drive), pebblestore.WithCacheSize(1<<20), pebblestore.WithMemTableSize(w.memory))
	if err != nil {
		return err
	}
	l.srv, err = tc.NewServer(context.Background(), tc.Config{
		Listener: l.lis[0], DTM: &dtm.Config{Listener: l.lis[1], GRPC: "127.0.0.1:0"}, Store: w.wrap(st), Log: quiet,
		DrainTimeout: 50 * time.Millisecond,
		Engine: engine.Config{Core: core.Config{
			RestartGrace: 500 * time.Millisecond, CollectGrace: 20 * time.Millisecond,
			RetryFirst: 5 * time.Millisecond, RetryMax: 50 * time.Millisecond, AnswerTimeout: time.Second, AttentionAfter: 1000,
		}},
		// What a coordinator does whose power went reaches nobody.
		Calls: caller.Config{Proxy: func(*http.Request) (*url.URL, error) {
			if w.mute || l.dead.Load() {
				return nil, errPower
			}
			return nil, nil
		}},
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	go func() {
		l.err = l.srv.Serve(ctx)
		close(l.ended)
	}()
	return nil
}

// cut has nobody hear the coordinator any more.
func (l *life) cut() {
	l.dead.Store(true)
	for _, o := range l.lis {
		o.cut()
	}
}

// end stops the coordinator in order, or what is left of it.
func (l *life) end() error {
	l.stop()
	<-l.ended
	l.cut()
	return l.err
}

// bury lets a coordinator go whose power went: it ends on a disk that nobody will see.
func (w *world) bury(l *life) {
	l.cut()
	close(l.drive.free)
	w.after.Go(func() { _ = l.end() })
}

// openOnes gives what has not ended yet.
func (w *world) openOnes(ctx context.Context) ([]*pb.Transaction, error) {
	r, err := w.admin.List(ctx, &pb.ListRequest{Phases: []pb.Phase{pb.Phase_PHASE_ACTIVE, pb.Phase_PHASE_COLLECTING, pb.Phase_PHASE_SETTLING}})
	return r.GetTransactions(), err
}

// run is one scenario on a drive with faults: one for each life, and a good disk then.
type run struct {
	*world
	*service
	mode         string
	faults       []fault
	probe        func(*run, *drive) error // is called when the power went, before it comes back
	began        func(*run)               // is called before the transaction begins
	ended        func(*run)               // is called when the caller was told how it ended
	planted      bool                     // a fault of the harness is tried, which is no figure
	transactions int
	hits         int
	failed       []failure
	said         string // what the caller was told at last
	life         *life
	drive        *drive
}

// failure is what a coordinator said that stopped by itself, or did not start.
type failure struct {
	fault fault
	where []string
	err   error
}

func (d *drive) failure(err error) failure {
	d.mu.Lock()
	defer d.mu.Unlock()
	return failure{d.fault, slices.Clone(d.where), err}
}

// left is the disk that the next coordinator finds.
func (d *drive) left() *vfs.MemFS {
	if d.fault.keep < 100 {
		return d.mem.CrashClone(vfs.CrashCloneCfg{})
	}
	return d.mem
}

// play plays it, and tells how many faults have come.
func (r *run) play(ctx context.Context) (hits int, err error) {
	mem := vfs.NewCrashableMem()
	if err := r.up(mem); err != nil {
		return r.hits, err
	}
	if r.began != nil {
		r.began(r)
	}
	called := make(chan string, 1)
	callCtx, cancel := context.WithCancel(ctx)
	go func() { called <- scenarios[r.mode].call(r.service, callCtx) }()
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond) // there is no signal for "all is over"
	defer tick.Stop()
	var said bool
	for {
		select {
		case <-ctx.Done():
			return r.hits, r.stuck()
		case r.said = <-called:
			if said = true; r.ended != nil {
				r.ended(r)
			}
		case <-r.life.drive.gone:
			if err := r.power(); err != nil {
				return r.hits, err
			}
		case <-r.life.ended:
			if err := r.again(); err != nil {
				return r.hits, err
			}
		case <-tick.C:
			if !said {
				continue
			}
			if over, err := r.over(ctx); err != nil || over {
				return r.hits, err
			}
		}
	}
}

// next is the fault of the next life.
func (r *run) next() (f fault) {
	if len(r.faults) > 0 {
		f, r.faults = r.faults[0], r.faults[1:]
	}
	return f
}

// up starts a coordinator on a disk, as often as it takes.
func (r *run) up(mem *vfs.MemFS) error {
	for {
		r.drive = newDrive(mem, r.next())
		l, err := r.start(r.drive)
		switch {
		case err == nil:
			r.life = l
			return nil
		case errors.Is(err, errPower):
			r.hits++
			if r.probe != nil {
				if err := r.probe(r, r.drive); err != nil {
					return err
				}
			}
			mem = r.drive.after
		default:
			hit := r.drive.disarm()
			if !hit {
				return fmt.Errorf("it does not start on a good disk: %w", err)
			}
			r.hits++
			r.failed = append(r.failed, r.drive.failure(err))
			mem = r.drive.left()
		}
	}
}

// power brings the power back after a loss.
func (r *run) power() error {
	r.hits++
	r.bury(r.life)
	if r.probe != nil {
		if err := r.probe(r, r.drive); err != nil {
			return err
		}
	}
	return r.up(r.drive.after)
}

// again starts a coordinator again that stopped by itself.
func (r *run) again() error {
	r.life.cut()
	hit := r.drive.disarm()
	if !hit {
		return fmt.Errorf("the coordinator stopped on a good disk: %w", r.life.err)
	}
	r.hits++
	r.failed = append(r.failed, r.drive.failure(r.life.err))
	return r.up(r.drive.left())
}

// over tells whether nothing is under way any more.
func (r *run) over(ctx context.Context) (bool, error) {
	ask, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	open, err := r.openOnes(ask)
	if err != nil || len(open) > 0 {
		return false, nil
	}
	// From here on the disk is good, unless the fault has just come.
	hit := r.drive.disarm()
	if r.drive.ends() {
		return false, nil
	}
	if hit {
		r.hits++
	}
	return true, nil
}

func (r *run) stuck() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	l, err := r.admin.List(ctx, &pb.ListRequest{PageSize: 5})
	return fmt.Errorf("it does not come to an end: %v, alarms %q, %v", l.GetTransactions(), r.alarms, err) //nolint:errorlint // it may be nil
}

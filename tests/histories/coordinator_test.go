package histories

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/dtm"
	"github.com/handfast/handfast/tc/store/pebblestore"
)

// coordinator is what the clients talk to.
type coordinator interface {
	addr() string
	// dtmAddr is where it listens for DTM's clients, over HTTP.
	dtmAddr() string
	// crash ends it as nobody wants it to, and starts another one from what is left.
	// Until freeze has been called answers may still be on their way; where it goes on
	// is told to thaw.
	crash(freeze func(), thaw func(addr string)) error
}

// mortal is a process that is killed with SIGKILL. Its address outlives it: who calls
// while it is dead waits for the next one.
type mortal struct {
	dir  string
	at   [2]string // for its own clients, and for DTM's
	lis  [2]*os.File
	proc *child.Process
}

func startMortal(t *testing.T) *mortal {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process can't inherit a listener here")
	}
	m := &mortal{dir: t.TempDir()}
	for i := range m.lis {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		m.at[i] = lis.Addr().String()
		m.lis[i], err = lis.(*net.TCPListener).File()
		if err = errors.Join(err, lis.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.proc.Kill()
		_, _ = m.lis[0].Close(), m.lis[1].Close()
	})
	return m
}

func (m *mortal) start() error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asCoordinator+"="+m.dir)
	cmd.ExtraFiles = m.lis[:]
	cmd.Stderr = os.Stderr
	proc, err := child.Start(cmd, syscall.SIGKILL)
	if err == nil {
		m.proc = proc // the one before is dead, and may be killed once more
	}
	return err
}

func (m *mortal) addr() string    { return m.at[0] }
func (m *mortal) dtmAddr() string { return m.at[1] }

func (m *mortal) crash(func(), func(string)) error {
	m.proc.Kill()
	return m.start()
}

// powered is a coordinator in this process whose power can be cut: what was not
// forced to its disk, which is in memory, is lost then, in whole or in part.
type powered struct {
	disk *vfs.MemFS
	// lying makes the disk forget what it has acknowledged since the start: a planted
	// fault. That a store is gone as a whole would be noticed.
	lying bool
	kept  int // percent of what was not forced, at the next crash
	at    [2]string
	stop  func() error
	abort func()
}

func startPowered(t *testing.T, lying bool) *powered {
	t.Helper()
	p := &powered{disk: vfs.NewCrashableMem(), lying: lying}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *powered) start() error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	lies := new(atomic.Bool)
	cfg := settings()
	cfg.Listener, cfg.DTM = lis, &dtm.Config{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0"}
	if cfg.Store, err = pebblestore.Open("store", pebblestore.WithFS(lyingFS{p.disk, lies})); err != nil {
		return err
	}
	s, err := tc.NewServer(context.Background(), cfg)
	if err != nil {
		return err
	}
	lies.Store(p.lying)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	overHTTP, _ := s.DTMAddrs()
	p.at = [2]string{s.Addr().String(), overHTTP.String()}
	p.stop = func() error { cancel(); return <-done }
	p.abort = func() {
		now, over := context.WithCancel(ctx)
		over()
		_ = s.Shutdown(now) // Serve returns the same error
	}
	return nil
}

func (p *powered) addr() string    { return p.at[0] }
func (p *powered) dtmAddr() string { return p.at[1] }

func (p *powered) crash(freeze func(), thaw func(string)) error {
	freeze()
	left := p.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: p.kept, RNG: newRand(0)})
	p.kept = (p.kept + 50) % 150
	p.abort()
	_ = p.stop() // it lives on a disk that is gone
	p.disk = left
	err := p.start()
	thaw(p.at[0])
	return err
}

// lyingFS acknowledges what it has not forced, while lies is set.
type lyingFS struct {
	vfs.FS
	lies *atomic.Bool
}

func (l lyingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.Create(name, c)
	return lyingFile{f, l.lies}, err
}

func (l lyingFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.ReuseForWrite(from, to, c)
	return lyingFile{f, l.lies}, err
}

type lyingFile struct {
	vfs.File
	lies *atomic.Bool
}

func (f lyingFile) SyncData() error {
	if f.lies.Load() {
		return nil
	}
	return f.File.SyncData()
}

func (f lyingFile) SyncTo(n int64) (fullSync bool, err error) {
	if f.lies.Load() {
		return false, nil
	}
	return f.File.SyncTo(n)
}

package pebblestore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/handfast/handfast/tc/store"
)

// guard is the file system that Pebble sees. Pebble must never learn of a
// failed write: it would try again for ever, or panic while its locks are not
// in the state that unwinding expects, which ends the process without a word.
// So the first failed write is told to fail, and from then on every goroutine
// that wants to write is stopped in its tracks. Nobody but Pebble's own
// goroutines may write through a guard.
type guard struct {
	vfs.FS
	fail    func(error)
	frozen  atomic.Bool
	flushes atomic.Uint64

	writing sync.RWMutex // held for reading by each write under way

	mu   sync.Mutex
	lock io.Closer // of the directory, while it is held
}

// freeze lets no further write begin.
func (g *guard) freeze() { g.frozen.Store(true) }

// release gives up the lock of the directory. A frozen guard waits for the
// writes under way, so that nothing is written without the lock.
func (g *guard) release() error {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lock == nil {
		return nil
	}
	err := g.lock.Close()
	g.lock = nil
	return err
}

// try runs one write. It does not return when it or any write before it failed.
func (g *guard) try(what, name string, write func() error) error {
	g.writing.RLock()
	if g.frozen.Load() {
		g.writing.RUnlock()
		select {}
	}
	err := write()
	g.writing.RUnlock()
	if err == nil || errors.Is(err, fs.ErrClosed) {
		return err
	}
	g.fail(fmt.Errorf("%s %s: %w", what, name, err))
	select {}
}

func (g *guard) open(what, name string, open func() (vfs.File, error)) (f vfs.File, err error) {
	err = g.try(what, name, func() error {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &guardedFile{File: f, g: g, name: name, log: strings.HasSuffix(name, ".log")}, nil
}

// Create implements vfs.FS. The name of a marker says which file counts, and Pebble
// syncs the directory only after it has made both. A power loss before that may leave a
// marker that names a file which is not there, and then there is no opening the store.
// So the name of the file is made durable first.
func (g *guard) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(g.PathBase(name), "marker.") {
		if err := syncDirectory(g, g.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return g.open("create", name, func() (vfs.File, error) { return g.FS.Create(name, c) })
}

// OpenReadWrite implements vfs.FS.
func (g *guard) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return g.open("open", name, func() (vfs.File, error) { return g.FS.OpenReadWrite(name, c, opts...) })
}

// ReuseForWrite implements vfs.FS.
func (g *guard) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return g.open("reuse", to, func() (vfs.File, error) { return g.FS.ReuseForWrite(from, to, c) })
}

// OpenDir implements vfs.FS. A directory is opened to be synced.
func (g *guard) OpenDir(name string) (vfs.File, error) {
	return g.open("open", name, func() (vfs.File, error) { return g.FS.OpenDir(name) })
}

// Rename implements vfs.FS.
func (g *guard) Rename(from, to string) error {
	return g.try("rename", to, func() error { return g.FS.Rename(from, to) })
}

// Remove implements vfs.FS. Failing to remove a file loses nothing.
func (g *guard) Remove(name string) error {
	var removed error
	_ = g.try("remove", name, func() error {
		removed = g.FS.Remove(name)
		return nil
	})
	return removed
}

// Lock implements vfs.FS.
func (g *guard) Lock(name string) (io.Closer, error) {
	c, err := g.FS.Lock(name)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			return nil, err // the file can't be opened, nobody holds it
		}
		return nil, fmt.Errorf("%w: %w", store.ErrLocked, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lock = c
	return heldLock{g}, nil
}

// Unwrap implements vfs.FS.
func (g *guard) Unwrap() vfs.FS { return g.FS }

type heldLock struct{ g *guard }

// Close implements io.Closer.
func (l heldLock) Close() error { return l.g.release() }

type guardedFile struct {
	vfs.File
	g    *guard
	name string
	log  bool // it belongs to the write-ahead log
}

// Write implements vfs.File.
func (f *guardedFile) Write(p []byte) (n int, err error) {
	err = f.g.try("write", f.name, func() error {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

// WriteAt implements vfs.File.
func (f *guardedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.g.try("write", f.name, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

// Sync implements vfs.File.
func (f *guardedFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData implements vfs.File.
func (f *guardedFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *guardedFile) sync(sync func() error) error {
	if f.log {
		f.g.flushes.Add(1)
	}
	return f.g.try("sync", f.name, sync)
}

// SyncTo implements vfs.File.
func (f *guardedFile) SyncTo(length int64) (full bool, err error) {
	err = f.g.try("sync", f.name, func() error {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Close implements vfs.File.
func (f *guardedFile) Close() error { return f.g.try("close", f.name, f.File.Close) }

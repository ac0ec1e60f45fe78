package disk

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// class sorts the calls to a file system.
type class string

const (
	anyWrite class = "call" // each of the next five
	write    class = "write"
	force    class = "sync"
	create   class = "create"
	rename   class = "rename"
	remove   class = "remove"
	read     class = "read"
)

// fault is what a drive does at the at-th call of a class. The zero fault is a good disk.
type fault struct {
	what  what
	class class
	at    int
	errno syscall.Errno // of failing
	lasts bool          // it fails from then on
	keep  int           // of power losses: so many of a hundred unsynced blocks and names are kept
	seed  uint64        // which ones
	only  string        // of lies: files with this suffix; empty: all
}

// what a drive can do.
type what string

const (
	powerBefore what = "power-before" // the power goes before the call has an effect
	powerAfter  what = "power-after"  // it goes before the caller hears that it had one
	failing     what = "fails"
	lying       what = "lies"  // a sync says that it is done, and does nothing; from then on
	short       what = "short" // reads give half of what was asked for; from then on
)

// drive is a disk: Pebble's file system in memory, which knows what was synced. Calls
// that change something come one after the other, so what is on the disk when the power
// goes is what whoever heard of it heard of.
type drive struct {
	vfs.FS
	mem  *vfs.MemFS
	gone chan struct{} // closed when the power goes
	free chan struct{} // closed when nobody hears the old coordinator any more

	mu     sync.Mutex
	fault  fault
	armed  bool
	seen   map[class]int
	hit    bool
	lost   bool
	after  *vfs.MemFS         // what is there after the power loss
	whole  *vfs.MemFS         // what would be there with all that was written
	synced *vfs.MemFS         // and with nothing that was not synced
	forced map[string][]int64 // how long a log was each time when it was synced
	where  []string           // the calls that were hit
}

func newDrive(mem *vfs.MemFS, f fault) *drive {
	return &drive{FS: mem, mem: mem, fault: f, armed: f.what != "", seen: map[class]int{}, forced: map[string][]int64{}, gone: make(chan struct{}), free: make(chan struct{})}
}

// disarm has the disk be a good one from now on, and tells whether it was not.
func (d *drive) disarm() (hit bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = false
	return d.hit
}

// ends tells whether what has happened to the disk ends the coordinator that is on it.
func (d *drive) ends() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost || d.hit && d.fault.stops()
}

// stops tells whether a coordinator that meets the fault has to stop. To be unable to
// remove a file loses nothing.
func (f fault) stops() bool { return f.what == failing && f.class != remove && f.class != read }

// calls tells how many there were of each class.
func (d *drive) calls() map[class]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.seen)
}

// lie has syncs of files with the suffix do nothing from now on.
func (d *drive) lie(only string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.armed = fault{what: lying, class: force, only: only}, true
}

// met counts a call, and tells whether the fault is about it.
func (d *drive) met(c class, name string) (hits, lies bool) {
	d.seen[c]++
	if c != read {
		d.seen[anyWrite]++
	}
	f := &d.fault
	if !d.armed || f.class != c && (f.class != anyWrite || c == read) {
		return false, false
	}
	n := d.seen[f.class]
	if f.what == lying || f.what == short {
		lies = n >= f.at && strings.HasSuffix(name, f.only)
		d.hit = d.hit || lies
		return false, lies
	}
	if hits = n == f.at || f.lasts && n > f.at; hits {
		d.hit, d.where = true, append(d.where, name)
	}
	return hits, false
}

// change makes one call that changes something.
func (d *drive) change(c class, name string, do func() error) error {
	d.mu.Lock()
	if d.lost {
		d.mu.Unlock()
		<-d.free
		return do()
	}
	hits, lies := d.met(c, name)
	switch {
	case lies:
		d.mu.Unlock()
		return nil
	case !hits:
		defer d.mu.Unlock()
		return do()
	case d.fault.what == failing:
		defer d.mu.Unlock()
		return &os.PathError{Op: string(c), Path: name, Err: d.fault.errno}
	}
	before := d.fault.what == powerBefore
	var err error
	if !before {
		err = do()
	}
	d.lose()
	d.mu.Unlock()
	<-d.free
	if before {
		err = do()
	}
	return err
}

// lose has the power go.
func (d *drive) lose() {
	d.lost = true
	kept := func(percent int) *vfs.MemFS {
		return d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(d.fault.seed, 1))})
	}
	d.after, d.whole, d.synced = kept(d.fault.keep), kept(100), kept(0)
	close(d.gone)
}

// cut has the power go now, if it has not gone yet; nothing unsynced is kept.
func (d *drive) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.lost {
		d.fault.keep = 0
		d.lose()
	}
}

// look makes one call that only reads.
func (d *drive) look(name string, do func() error) error {
	d.mu.Lock()
	hits, _ := d.met(read, name)
	f := d.fault
	d.mu.Unlock()
	if hits && f.what == failing { // a read loses no power
		return &os.PathError{Op: string(read), Path: name, Err: f.errno}
	}
	return do()
}

func (d *drive) file(c class, name string, open func() (vfs.File, error)) (f vfs.File, err error) {
	do := func() error {
		f, err = open()
		return err
	}
	if c == read {
		err = d.look(name, do)
	} else {
		err = d.change(c, name, do)
	}
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, os.ErrInvalid // a lie about what no disk lies about
	}
	return &driveFile{File: f, d: d, name: name}, nil
}

// Create implements vfs.FS.
func (d *drive) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file(create, name, func() (vfs.File, error) { return d.FS.Create(name, c) })
}

// OpenReadWrite implements vfs.FS.
func (d *drive) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.file(create, name, func() (vfs.File, error) { return d.FS.OpenReadWrite(name, c, opts...) })
}

// ReuseForWrite implements vfs.FS.
func (d *drive) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file(create, to, func() (vfs.File, error) { return d.FS.ReuseForWrite(from, to, c) })
}

// Open implements vfs.FS.
func (d *drive) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.file(read, name, func() (vfs.File, error) { return d.FS.Open(name, opts...) })
}

// OpenDir implements vfs.FS.
func (d *drive) OpenDir(name string) (vfs.File, error) {
	return d.file(read, name, func() (vfs.File, error) { return d.FS.OpenDir(name) })
}

// MkdirAll implements vfs.FS.
func (d *drive) MkdirAll(name string, perm os.FileMode) error {
	return d.change(create, name, func() error { return d.FS.MkdirAll(name, perm) })
}

// Link implements vfs.FS.
func (d *drive) Link(from, to string) error {
	return d.change(create, to, func() error { return d.FS.Link(from, to) })
}

// Rename implements vfs.FS.
func (d *drive) Rename(from, to string) error {
	return d.change(rename, to, func() error { return d.FS.Rename(from, to) })
}

// Remove implements vfs.FS.
func (d *drive) Remove(name string) error {
	return d.change(remove, name, func() error { return d.FS.Remove(name) })
}

// RemoveAll implements vfs.FS.
func (d *drive) RemoveAll(name string) error {
	return d.change(remove, name, func() error { return d.FS.RemoveAll(name) })
}

// List implements vfs.FS.
func (d *drive) List(dir string) (names []string, err error) {
	err = d.look(dir, func() error {
		names, err = d.FS.List(dir)
		return err
	})
	return names, err
}

// Unwrap implements vfs.FS.
func (d *drive) Unwrap() vfs.FS { return d.FS }

type driveFile struct {
	vfs.File
	d    *drive
	name string
}

// Write implements vfs.File.
func (f *driveFile) Write(p []byte) (n int, err error) {
	err = f.d.change(write, f.name, func() error {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

// WriteAt implements vfs.File.
func (f *driveFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.d.change(write, f.name, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

// Sync implements vfs.File.
func (f *driveFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData implements vfs.File.
func (f *driveFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *driveFile) sync(do func() error) error {
	return f.d.change(force, f.name, func() error {
		info, err := f.Stat()
		if err == nil && strings.HasSuffix(f.name, ".log") && !f.d.lost {
			f.d.forced[f.name] = append(f.d.forced[f.name], info.Size())
		}
		return errors.Join(err, do())
	})
}

// SyncTo implements vfs.File.
func (f *driveFile) SyncTo(length int64) (full bool, err error) {
	err = f.d.change(force, f.name, func() error {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Read implements vfs.File.
func (f *driveFile) Read(p []byte) (n int, err error) {
	err = f.d.look(f.name, func() error {
		n, err = f.File.Read(f.d.part(p))
		return err
	})
	return n, err
}

// ReadAt implements vfs.File.
func (f *driveFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.d.look(f.name, func() error {
		n, err = f.File.ReadAt(p, off)
		return err
	})
	return n, err
}

// part is how much of a buffer a read fills at most.
func (d *drive) part(p []byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed && d.fault.what == short && d.hit && len(p) > 1 {
		return p[:len(p)/2]
	}
	return p
}

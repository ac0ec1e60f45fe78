package pebblestore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/handfast/handfast/proto/handfast/store/v1"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// format is the version of the layout that this code writes and reads.
const format = 1

// Open opens the store in dir and makes one where there is none. It raises the
// incarnation, durably, before it returns. Errors, for errors.Is: store.ErrLocked,
// store.ErrCorrupt, store.ErrNotAStore, store.ErrFull.
func Open(dir string, opts ...Option) (s *Store, err error) {
	o := defaults()
	for _, opt := range opts {
		opt(&o)
	}
	if dir == "" {
		return nil, errors.New("store directory: empty, want a path")
	}
	if err := checkDirectory(o.fs, dir); err != nil {
		return nil, err
	}
	// Pebble panics on some broken files.
	defer func() {
		switch p := recover().(type) {
		case nil:
		case error:
			s, err = nil, openError(dir, p)
		default:
			s, err = nil, fmt.Errorf("open store %s: %w: %v", dir, store.ErrCorrupt, p)
		}
	}()
	s = &Store{fatal: o.fatal, log: o.log}
	s.db, err = pebble.Open(dir, s.pebbleOptions(o))
	if err != nil {
		return nil, openError(dir, err)
	}
	if err := s.startIn(o.fs, o.fs.PathJoin(dir, nameFile)); err != nil {
		_ = s.db.Close()
		return nil, openError(dir, err)
	}
	return s, nil
}

// nameFile holds the store's id and its incarnation, beside the database. It
// tells an empty database from one that lost everything, and shows when the end
// of the log is gone: damage there looks like a batch that a crash has torn.
const nameFile = "HANDFAST"

func (s *Store) startIn(fs vfs.FS, path string) error {
	id, incarnation, err := readName(fs, path)
	if err != nil {
		return err
	}
	if err := s.start(id, incarnation); err != nil {
		return err
	}
	// After the database: the file may be behind it, and never ahead.
	return writeName(fs, path, fmt.Sprintf("%s %d\n", metaOf(s.meta).Store, s.meta.GetIncarnation()))
}

// readName gives the zero id where there is no file.
func readName(fs vfs.FS, path string) (id xid.StoreID, incarnation uint32, err error) {
	f, err := fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return id, 0, nil
	}
	if err != nil {
		return id, 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, 100))
	if err != nil {
		return id, 0, err
	}
	var text string
	if _, err := fmt.Sscanf(string(b), "%s %d\n", &text, &incarnation); err != nil {
		return id, 0, fmt.Errorf("%w: file %s: %w", store.ErrCorrupt, nameFile, err)
	}
	if id, err = xid.ParseStoreID(text); err != nil {
		return id, 0, fmt.Errorf("%w: file %s: %w", store.ErrCorrupt, nameFile, err)
	}
	return id, incarnation, nil
}

// writeName makes the file whole or not at all.
func writeName(fs vfs.FS, path, text string) error {
	temp := path + ".new"
	f, err := fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(temp, path); err != nil {
		return err
	}
	d, err := fs.OpenDir(fs.PathDir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *Store) pebbleOptions(o options) *pebble.Options {
	p := &pebble.Options{
		FS:                 o.fs,
		CacheSize:          o.cache,
		Logger:             logger{s},
		MemTableSize:       64 << 20,
		FormatMajorVersion: pebble.FormatNewest,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { s.fail(err) },
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				s.fail(fmt.Errorf("%w: file %s: %w", store.ErrCorrupt, i.Path, i.Details))
			},
		},
	}
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return p
}

// checkDirectory refuses a directory that holds something else, so that a
// mistyped path is not filled with a store.
func checkDirectory(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil || len(names) == 0 {
		return nil //nolint:nilerr // it is not there yet; Pebble makes it or says why it can't
	}
	for _, n := range names {
		if n == nameFile || strings.HasPrefix(n, "MANIFEST-") || strings.HasPrefix(n, "marker.") || n == "CURRENT" || n == "LOCK" {
			return nil
		}
	}
	return fmt.Errorf("%w: %s holds other files, such as %s", store.ErrNotAStore, dir, names[0])
}

func openError(dir string, err error) error {
	for _, known := range []error{store.ErrCorrupt, store.ErrNotAStore, store.ErrFull, store.ErrFailed} {
		if errors.Is(err, known) {
			return fmt.Errorf("open store %s: %w", dir, err)
		}
	}
	var kind error
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES) && strings.Contains(err.Error(), "lock"),
		strings.Contains(err.Error(), "lock held by current process"):
		kind = store.ErrLocked
	case pebble.IsCorruptionError(err), errors.Is(err, os.ErrNotExist):
		// The directory is there, so it is one of its files that is missing.
		kind = store.ErrCorrupt
	case errors.Is(err, syscall.ENOSPC):
		kind = store.ErrFull
	case errors.Is(err, syscall.EIO):
		kind = store.ErrFailed
	default:
		return fmt.Errorf("open store %s: %w", dir, err)
	}
	return fmt.Errorf("open store %s: %w: %w", dir, kind, err)
}

// start reads what the store knows of itself and begins a new incarnation. id
// and seen are what the name file says; zero where there is none.
func (s *Store) start(id xid.StoreID, seen uint32) error {
	m, err := s.readMeta(id != (xid.StoreID{}))
	if err != nil {
		return err
	}
	switch {
	case id != (xid.StoreID{}) && id != xid.StoreID(m.GetStore()):
		return fmt.Errorf("%w: file %s names store %s, the database is store %x", store.ErrCorrupt, nameFile, id, m.GetStore())
	case seen > m.GetIncarnation():
		return fmt.Errorf("%w: file %s has seen incarnation %d, the database is at %d: the end of its log is lost",
			store.ErrCorrupt, nameFile, seen, m.GetIncarnation())
	}
	m.Incarnation++
	pos, err := s.writeMeta(m)
	if err != nil {
		return err
	}
	// Everything an earlier incarnation wrote lies below the batch that began
	// this one. Where a crash came between the two writes, that holds as well.
	for len(m.Ends) < int(m.GetIncarnation())-1 {
		m.Ends = append(m.Ends, pos)
	}
	_, err = s.writeMeta(m)
	s.meta = m
	return err
}

func (s *Store) readMeta(named bool) (*storev1.Meta, error) {
	v, closer, err := s.db.Get(metaKey())
	if errors.Is(err, pebble.ErrNotFound) {
		if named {
			return nil, fmt.Errorf("%w: the database lost what it knew of itself", store.ErrCorrupt)
		}
		return s.newMeta()
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close() //nolint:errcheck // releases memory, can't fail
	m := new(storev1.Meta)
	if err := proto.Unmarshal(v, m); err != nil {
		return nil, fmt.Errorf("%w: meta: %w", store.ErrCorrupt, err)
	}
	if len(m.GetStore()) != len(xid.StoreID{}) || m.GetIncarnation() == 0 {
		return nil, fmt.Errorf("%w: meta", store.ErrCorrupt)
	}
	if m.GetFormat() != format {
		return nil, fmt.Errorf("%w: format %d, this version reads %d", store.ErrNotAStore, m.GetFormat(), format)
	}
	return m, nil
}

// newMeta is for a store without meta: it has to be empty.
func (s *Store) newMeta() (*storev1.Meta, error) {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	used := it.First()
	if err := it.Close(); err != nil {
		return nil, err
	}
	if used {
		return nil, fmt.Errorf("%w: a Pebble database of something else", store.ErrNotAStore)
	}
	id := make([]byte, len(xid.StoreID{}))
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	return &storev1.Meta{Format: format, Store: id}, nil
}

func (s *Store) writeMeta(m *storev1.Meta) (position uint64, err error) {
	v, err := proto.Marshal(m)
	if err != nil {
		return 0, err
	}
	b := s.db.NewBatch()
	if err := b.Set(metaKey(), v, nil); err != nil {
		return 0, err
	}
	return s.commit(b, true)
}

func metaOf(m *storev1.Meta) store.Meta {
	var horizon time.Time
	if ms := m.GetHorizonMs(); ms != 0 {
		horizon = time.UnixMilli(ms)
	}
	return store.Meta{
		Store: xid.StoreID(m.GetStore()), Incarnation: m.GetIncarnation(), Horizon: horizon,
		QuarantineBelow: m.GetQuarantineBelow(), QuarantineReason: m.GetQuarantineReason(),
	}
}

// logger hands Pebble's reports on. Fatalf is called where Pebble can't go on.
type logger struct{ s *Store }

// Infof implements pebble.Logger.
func (l logger) Infof(format string, args ...any) {
	if l.s.log.Enabled(nil, slog.LevelDebug) { //nolint:staticcheck // slog allows a nil context
		l.s.log.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

// Errorf implements pebble.Logger.
func (l logger) Errorf(format string, args ...any) {
	l.s.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger.
func (l logger) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			l.s.fail(fmt.Errorf("pebble: %w", err))
			return
		}
	}
	l.s.fail(fmt.Errorf("pebble: %s", fmt.Sprintf(format, args...)))
}

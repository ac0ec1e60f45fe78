package pebblestore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
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
func Open(dir string, opts ...Option) (*Store, error) {
	o := defaults()
	for _, opt := range opts {
		opt(&o)
	}
	if dir == "" {
		return nil, errors.New("store directory: empty, want a path")
	}
	s := &Store{log: o.log, failed: make(chan struct{})}
	s.fatal = func(error) {} // while it is opened, the error of Open says it
	s.disk = &guard{FS: o.fs, fail: s.fail}
	s.pipe = newPipeline(s.failed, s.fail)
	// Where a write fails the goroutine that did it stops for ever, so it must
	// not be this one.
	opened := make(chan error, 1)
	go func() { opened <- s.open(dir, o) }()
	var err error
	select {
	case err = <-opened:
	case <-s.failed:
		err = s.failure
	}
	if err == nil {
		s.fatal = o.fatal
		if s.hasFailed() == nil {
			return s, nil
		}
		err = s.failure
	}
	return nil, errors.Join(openError(dir, err), s.disk.release())
}

// open does the work of Open. Pebble panics on some broken files.
func (s *Store) open(dir string, o options) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case error:
			err = p
			if kindOf(err) == nil {
				err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
			}
		default:
			err = fmt.Errorf("%w: %v", store.ErrCorrupt, p)
		}
	}()
	n, err := prepareDirectory(s.disk, dir)
	if err != nil {
		return err
	}
	if n.incarnation == 0 {
		if err := s.create(dir, o); err != nil {
			return err
		}
	}
	db, err := pebble.Open(dir, s.pebbleOptions(o))
	if err != nil {
		return err
	}
	s.db = db
	s.pipe.start(db)
	if err = s.start(n); err == nil {
		n.incarnation = s.meta.GetIncarnation()
		err = writeName(s.disk, s.disk.PathJoin(dir, nameFile), n)
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

// create makes the database and closes it again. Pebble raises the format of a new one
// only after it has begun its first log, and that log would lack what shows damage in its
// middle: a flipped bit would silently take everything behind it away.
func (s *Store) create(dir string, o options) error {
	db, err := pebble.Open(dir, s.pebbleOptions(o))
	if err != nil {
		return err
	}
	return db.Close()
}

func (s *Store) pebbleOptions(o options) *pebble.Options {
	p := &pebble.Options{
		FS:           s.disk,
		CacheSize:    o.cache,
		Logger:       logger{s},
		MemTableSize: o.memTable,
		// Named, so that a new version of Pebble does not change the files of
		// itself: there is no way back.
		FormatMajorVersion: pebble.FormatTableFormatV6,
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

func openError(dir string, err error) error {
	kind := kindOf(err)
	if kind == nil && errors.Is(err, os.ErrNotExist) {
		// The directory is there, so it is one of its files that is missing.
		kind = store.ErrCorrupt
	}
	if kind == nil || errors.Is(err, kind) {
		return fmt.Errorf("open store %s: %w", dir, err)
	}
	return fmt.Errorf("open store %s: %w: %w", dir, kind, err)
}

// start reads what the store knows of itself and begins a new incarnation.
func (s *Store) start(n name) error {
	m, err := s.readMeta(n)
	if err != nil {
		return err
	}
	switch {
	case n.store != xid.StoreID(m.GetStore()):
		return fmt.Errorf("%w: file %s names store %s, the database is store %x", store.ErrCorrupt, nameFile, n.store, m.GetStore())
	case n.incarnation > m.GetIncarnation():
		return fmt.Errorf("%w: file %s has seen incarnation %d, the database is at %d: the end of its log is lost",
			store.ErrCorrupt, nameFile, n.incarnation, m.GetIncarnation())
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

func (s *Store) readMeta(n name) (*storev1.Meta, error) {
	v, closer, err := s.db.Get(metaKey())
	if errors.Is(err, pebble.ErrNotFound) {
		if n.incarnation > 0 {
			return nil, fmt.Errorf("%w: the database lost what it knew of itself", store.ErrCorrupt)
		}
		return s.newMeta(n)
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
	if m.GetFormat() != format || len(m.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("%w: format %d, this version reads %d", store.ErrNotAStore, m.GetFormat(), format)
	}
	return m, nil
}

// newMeta is for a store without meta: it has to be empty.
func (s *Store) newMeta(n name) (*storev1.Meta, error) {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	used := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, err
	}
	if used {
		return nil, fmt.Errorf("%w: a Pebble database of something else", store.ErrNotAStore)
	}
	return &storev1.Meta{Format: format, Store: n.store[:]}, nil
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

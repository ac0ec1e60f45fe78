package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/handfast/handfast/proto/handfast/store/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// Store implements store.Store.
type Store struct {
	db    *pebble.DB
	log   *slog.Logger
	fatal func(error)
	disk  *guard
	pipe  *pipeline
	users gate

	once    sync.Once
	failure error         // set before failed is closed
	failed  chan struct{} // closed at the first failed write

	mu   sync.Mutex // guards meta and orders its writes
	meta *storev1.Meta
}

var _ store.Store = (*Store)(nil)

// errClosed: Close was called.
var errClosed = fmt.Errorf("%w: it is closed", store.ErrFailed)

// fail ends the store at its first failed write. It may be called by any
// goroutine, whatever locks of Pebble it holds.
func (s *Store) fail(err error) {
	s.once.Do(func() {
		s.disk.freeze()
		if kind := kindOf(err); kind != nil && !errors.Is(kind, store.ErrFailed) {
			err = fmt.Errorf("%w: %w", kind, err)
		}
		s.failure = fmt.Errorf("%w: %w", store.ErrFailed, err)
		close(s.failed)
		go s.fatal(s.failure)
	})
}

// kindOf names what an error of Pebble or of the disk means, nil if that is unknown.
func kindOf(err error) error {
	for _, known := range []error{store.ErrLocked, store.ErrCorrupt, store.ErrNotAStore, store.ErrFull, store.ErrFailed} {
		if errors.Is(err, known) {
			return known
		}
	}
	switch {
	case pebble.IsCorruptionError(err):
		return store.ErrCorrupt
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return store.ErrFull
	case errors.Is(err, syscall.EIO):
		return store.ErrFailed
	}
	return nil
}

// use guards the database against Close. done must be called when err is nil.
func (s *Store) use() (done func(), err error) {
	if !s.users.enter() {
		return nil, errClosed
	}
	return s.users.leave, nil
}

// Meta implements store.Store.
func (s *Store) Meta() store.Meta {
	s.mu.Lock()
	defer s.mu.Unlock()
	return metaOf(s.meta)
}

// Apply implements store.Store.
func (s *Store) Apply(b store.Batch, sync bool) (uint64, error) {
	done, err := s.use()
	if err != nil {
		return 0, err
	}
	defer done()
	pb := s.db.NewBatch()
	if err := fill(pb, b); err != nil {
		_ = pb.Close()
		return 0, err
	}
	if pb.Empty() {
		if !sync {
			_ = pb.Close()
			return s.pipe.position.Load(), s.hasFailed()
		}
		// An empty log record carries the sync for what was applied before.
		if err := pb.LogData(nil, nil); err != nil {
			return 0, err
		}
	}
	return s.commit(pb, sync)
}

func fill(pb *pebble.Batch, b store.Batch) error {
	var key, value []byte
	var err error
	for i := range b.Records {
		r := &b.Records[i]
		key = appendOpenKey(key[:0], r.XID, r.Seq)
		if value, err = store.AppendRecord(value[:0], *r); err != nil {
			return err
		}
		if err := pb.Set(key, value, nil); err != nil {
			return err
		}
		if r.Kind == core.RecordBegin && r.Key != "" {
			key = appendKey(key[:0], r.Key)
			if err := pb.Set(key, r.XID[:], nil); err != nil {
				return err
			}
		}
	}
	for i := range b.Finished {
		tx := &b.Finished[i]
		for seq := range tx.Records {
			key = appendOpenKey(key[:0], tx.XID, seq)
			if err := pb.Delete(key, nil); err != nil {
				return err
			}
		}
		key = appendFinishedKey(key[:0], tx.XID)
		if value, err = store.AppendFinished(value[:0], *tx); err != nil {
			return err
		}
		if err := pb.Set(key, value, nil); err != nil {
			return err
		}
		key = appendExpiryKey(key[:0], tx.Finished, tx.XID)
		if err := pb.Set(key, []byte(tx.Key), nil); err != nil {
			return err
		}
	}
	return nil
}

// hasFailed returns what made the store fail, nil if nothing did.
func (s *Store) hasFailed() error {
	select {
	case <-s.failed:
		return s.failure
	default:
		return nil
	}
}

// commit writes the batch, which it takes over, and gives its position.
func (s *Store) commit(b *pebble.Batch, sync bool) (position uint64, err error) {
	position, ok := s.pipe.apply(b, sync)
	if !ok {
		return 0, s.failure
	}
	return position, nil
}

// Recover implements store.Store.
func (s *Store) Recover(ctx context.Context, fn func(core.Transaction) error) error {
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	var tx core.Transaction
	emit := func() error {
		if tx.Records == 0 {
			return nil
		}
		err := fn(tx)
		tx = core.Transaction{}
		return err
	}
	err = s.scan(prefixOpen, func(it *pebble.Iterator) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		id, seq, err := parseOpenKey(it.Key())
		if err != nil {
			return false, err
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return false, err
		}
		r, err := store.DecodeRecord(id, seq, v)
		if err != nil {
			return false, err
		}
		if id != tx.XID {
			if err := emit(); err != nil {
				return false, err
			}
		}
		if err := core.Fold(&tx, r); err != nil {
			return false, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
		return true, nil
	})
	if err != nil {
		return readError(err)
	}
	return emit()
}

// scan walks over all keys with the prefix until fn returns false.
func (s *Store) scan(prefix byte, fn func(*pebble.Iterator) (bool, error)) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefix}, UpperBound: []byte{prefix + 1}})
	if err != nil {
		return err
	}
	more := true
	for ok := it.First(); ok && more; ok = it.Next() {
		if more, err = fn(it); err != nil {
			_ = it.Close()
			return err
		}
	}
	return errors.Join(it.Error(), it.Close())
}

func readError(err error) error {
	if pebble.IsCorruptionError(err) && !errors.Is(err, store.ErrCorrupt) {
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return err
}

// Finished implements store.Store.
func (s *Store) Finished(id xid.ID) (core.Transaction, bool, error) {
	done, err := s.use()
	if err != nil {
		return core.Transaction{}, false, err
	}
	defer done()
	v, closer, err := s.db.Get(appendFinishedKey(nil, id))
	if errors.Is(err, pebble.ErrNotFound) {
		return core.Transaction{}, false, nil
	}
	if err != nil {
		return core.Transaction{}, false, readError(err)
	}
	defer closer.Close() //nolint:errcheck // releases memory, can't fail
	tx, err := store.DecodeFinished(id, v)
	return tx, err == nil, err
}

// ListFinished implements store.Store.
func (s *Store) ListFinished(ctx context.Context, before xid.ID, fn func(core.Transaction) bool) error {
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	upper := []byte{prefixFinished + 1}
	if !before.IsZero() {
		upper = appendFinishedKey(nil, before)
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixFinished}, UpperBound: upper})
	if err != nil {
		return err
	}
	for ok := it.Last(); ok; ok = it.Prev() {
		if err = ctx.Err(); err != nil {
			break
		}
		var tx core.Transaction
		if tx, err = decodeAt(it); err != nil || !fn(tx) {
			break
		}
	}
	return readError(errors.Join(err, it.Error(), it.Close()))
}

func decodeAt(it *pebble.Iterator) (core.Transaction, error) {
	id, err := xid.FromBytes(it.Key()[1:])
	if err != nil {
		return core.Transaction{}, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return core.Transaction{}, err
	}
	return store.DecodeFinished(id, v)
}

// Expire implements store.Store.
func (s *Store) Expire(ctx context.Context, cutoff time.Time, limit int) (int, error) {
	done, err := s.use()
	if err != nil {
		return 0, err
	}
	defer done()
	b := s.db.NewBatch()
	var horizon time.Time
	n := 0
	end := appendExpiryKey(nil, cutoff, xid.ID{})
	err = s.scan(prefixExpiry, func(it *pebble.Iterator) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if n == limit || slices.Compare(it.Key(), end) >= 0 {
			return false, nil
		}
		id, err := parseExpiryKey(it.Key())
		if err != nil {
			return false, err
		}
		if t := id.Begin(); t.After(horizon) {
			horizon = t
		}
		n++
		key, err := it.ValueAndErr()
		if err == nil && len(key) > 0 {
			err = b.Delete(appendKey(nil, string(key)), nil)
		}
		return true, errors.Join(err, b.Delete(it.Key(), nil), b.Delete(appendFinishedKey(nil, id), nil))
	})
	if err != nil || n == 0 {
		_ = b.Close()
		return 0, readError(err)
	}
	if err := s.change(func(m *storev1.Meta) { m.HorizonMs = max(m.GetHorizonMs(), horizon.UnixMilli()) }); err != nil {
		_ = b.Close()
		return 0, err
	}
	if _, err := s.commit(b, false); err != nil {
		return 0, err
	}
	return n, nil
}

// change rewrites meta, durably.
func (s *Store) change(f func(*storev1.Meta)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := proto.CloneOf(s.meta)
	f(m)
	if _, err := s.writeMeta(m); err != nil {
		return err
	}
	s.meta = m
	return nil
}

// Quarantine implements store.Store.
func (s *Store) Quarantine(below uint32, reason string) error {
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	return s.change(func(m *storev1.Meta) { m.QuarantineBelow, m.QuarantineReason = below, reason })
}

// EndOf implements store.Store.
func (s *Store) EndOf(incarnation uint32) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if incarnation == 0 || int(incarnation) > len(s.meta.GetEnds()) {
		return 0, false
	}
	return s.meta.GetEnds()[incarnation-1], true
}

// Position implements store.Store.
func (s *Store) Position() uint64 { return s.pipe.position.Load() }

// Flushes implements store.Store.
func (s *Store) Flushes() uint64 { return s.disk.flushes.Load() }

// Close implements store.Store. It waits for the calls that are under way. It
// returns the error that made the store fail, if one did: Pebble is left where
// it stopped then, and its memory until the process ends.
func (s *Store) Close() error {
	if !s.users.close() {
		return nil
	}
	s.pipe.stop()
	closed := make(chan error, 1)
	if s.hasFailed() == nil {
		go func() {
			defer s.pipe.caught()
			closed <- s.db.Close()
		}()
	}
	select {
	case err := <-closed:
		return err
	case <-s.failed:
		return errors.Join(s.failure, s.disk.release())
	}
}

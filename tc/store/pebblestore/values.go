package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// Lookup implements store.Store.
func (s *Store) Lookup(key string) (id xid.ID, found bool, err error) {
	if key == "" {
		return id, false, nil
	}
	v, err := s.get(appendKey(nil, key))
	if v == nil || err != nil {
		return id, false, err
	}
	if id, err = xid.FromBytes(v); err != nil {
		return id, false, fmt.Errorf("%w: key %.200q: %w", store.ErrCorrupt, key, err)
	}
	return id, true, nil
}

// Value implements store.Store.
func (s *Store) Value(space, name string) ([]byte, error) {
	if err := checkSpace(space); err != nil {
		return nil, err
	}
	return s.get(valueKey(space, name))
}

// get gives a copy of a value; nil where there is none.
func (s *Store) get(key []byte) ([]byte, error) {
	done, err := s.use()
	if err != nil {
		return nil, err
	}
	defer done()
	v, closer, err := s.db.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, readError(err)
	}
	defer closer.Close() //nolint:errcheck // releases memory, can't fail
	return append([]byte{}, v...), nil
}

// SetValue implements store.Store.
func (s *Store) SetValue(space, name string, v []byte) error {
	if err := checkSpace(space); err != nil {
		return err
	}
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	b := s.db.NewBatch()
	key := valueKey(space, name)
	if v == nil {
		err = b.Delete(key, nil)
	} else {
		err = b.Set(key, v, nil)
	}
	if err != nil {
		_ = b.Close()
		return err
	}
	_, err = s.commit(b, true)
	return err
}

// ListValues implements store.Store.
func (s *Store) ListValues(ctx context.Context, space, from string, fn func(name string, v []byte) bool) error {
	if err := checkSpace(space); err != nil {
		return err
	}
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	begin := valueKey(space, "")
	end := append(bytes.Clone(begin[:len(begin)-1]), 1) // behind every name
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: valueKey(space, from), UpperBound: end})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		var v []byte
		if err = ctx.Err(); err == nil {
			v, err = it.ValueAndErr()
		}
		if v == nil {
			v = []byte{} // nil is what is not there
		}
		if err != nil || !fn(string(it.Key()[len(begin):]), v) {
			break
		}
	}
	return readError(errors.Join(err, it.Error(), it.Close()))
}

func checkSpace(space string) error {
	if space == "" || bytes.IndexByte([]byte(space), 0) >= 0 {
		return fmt.Errorf("the space %.100q is empty or holds a zero byte", space)
	}
	return nil
}

package pebblestore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/xid"
)

func TestReopenKeepsWhatWasAppliedAndRaisesTheIncarnation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := pebblestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	meta := s.Meta()
	id := xid.New(xid.Parts{Begin: time.Now(), Store: meta.Store, Incarnation: meta.Incarnation, Counter: 1})
	rec := core.Record{XID: id, Kind: core.RecordBegin, Time: time.UnixMilli(5), Name: "n", Deadline: time.UnixMilli(9)}
	pos, err := s.Apply(store.Batch{Records: []core.Record{rec}}, true)
	if err != nil || pos == 0 {
		t.Fatal(pos, err)
	}
	if _, err := pebblestore.Open(dir); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	if s.Flushes() == 0 {
		t.Fatal("no flush counted")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = pebblestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // only read
	if m := s.Meta(); m.Store != meta.Store || m.Incarnation != 2 {
		t.Fatalf("%+v", m)
	}
	if end, ok := s.EndOf(1); !ok || end < pos {
		t.Fatalf("end of incarnation 1: %d %t, want at least %d", end, ok, pos)
	}
	n := 0
	if err := s.Recover(t.Context(), func(tx core.Transaction) error {
		n++
		if tx.XID != id || tx.Name != "n" || !tx.Deadline.Equal(time.UnixMilli(9)) {
			t.Errorf("%+v", tx)
		}
		return nil
	}); err != nil || n != 1 {
		t.Fatal(n, err)
	}
}

func TestOpenRefusesWhatIsNotAStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "letter.txt"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pebblestore.Open(dir); !errors.Is(err, store.ErrNotAStore) {
		t.Fatalf("%v", err)
	}
}

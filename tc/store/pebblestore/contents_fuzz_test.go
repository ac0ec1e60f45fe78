package pebblestore_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/xid"
)

// Whatever key and value stand in the database of a store, everything that reads it gives
// what was written, or says that the store is corrupt, or none of this version.
func FuzzContents(f *testing.F) {
	base := vfs.NewCrashableMem()
	s, err := pebblestore.Open("store", pebblestore.WithFS(base))
	if err != nil {
		f.Fatal(err)
	}
	open, done := begin(s, 1), begin(s, 2)
	open.Key, done.Key = "a", "b"
	ended := core.Transaction{XID: done.XID, Key: "b", Phase: core.Finished, Outcome: core.Committed, Decided: done.Time, Finished: done.Time, Records: 1}
	_, err = s.Apply(store.Batch{Records: []core.Record{open, done}, Finished: []core.Transaction{ended}}, true)
	if err = errors.Join(err, s.SetValue("space", "name", []byte("value")), s.Close()); err != nil {
		f.Fatal(err)
	}
	o, d := string(open.XID[:]), string(done.XID[:])
	for _, seed := range [][2]string{
		{"m", ""}, {"m", "\x08\x01"}, {"m", "\x08\x01\x12\x08abcdefgh\x18\x01"}, {"m", "\x08\x01\x12\x03abc\x18\x01"}, {"o" + o + "\x00\x00\x00\x01", "\x08\x02"}, {"o" + o + "\xff\xff\xff\xff", ""}, {"o" + o, ""}, {"o", ""}, {"o" + d + "\x00\x00\x00\x00", "\xff"},
		{"f" + d, ""}, {"f" + d, "\x08\x63"}, {"f", "x"}, {"f" + d + "x", ""}, {"x", ""}, {"x\x00\x00\x00\x00\x00\x00\x00\x00" + d, ""}, {"x\xff\xff\xff\xff\xff\xff\xff\xff" + d, "y"}, {"x\x80\x00\x00\x00\x00\x00\x00\x00" + d + "z", ""},
		{"kb", ""}, {"ka", "x"}, {"k", d}, {"vspace\x00name", ""}, {"vspace", "x"}, {"v", ""}, {"z", "z"}, {"\xff", ""}, {"\x00", ""},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(key) == 0 {
			return
		}
		fs := base.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		db, err := pebble.Open("store", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Set(key, value, pebble.Sync), db.Close()); err != nil {
			t.Fatal(err)
		}
		sound := func(what string, err error) bool {
			t.Helper()
			if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrNotAStore) {
				t.Fatalf("%q: %q: %s: %v", key, value, what, err)
			}
			return err == nil
		}
		s, err := pebblestore.Open("store", pebblestore.WithFS(fs), pebblestore.WithFatal(func(error) {}))
		if !sound("open", err) {
			return
		}
		read(t, s, sound, [2]xid.ID{open.XID, done.XID})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// read reads everything in every way.
func read(t *testing.T, s *pebblestore.Store, sound func(string, error) bool, ids [2]xid.ID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	sound("recover", s.Recover(ctx, func(tx core.Transaction) error {
		if tx.XID.IsZero() && tx.Records > 1 {
			t.Fatalf("recovered %+v", tx)
		}
		return nil
	}))
	sound("list", s.ListFinished(ctx, xid.ID{}, func(core.Transaction) bool { return true }))
	for _, id := range ids {
		tx, found, err := s.Finished(id)
		if sound("finished", err) && found && tx.XID != id {
			t.Fatalf("%s is %+v", id, tx)
		}
	}
	for _, k := range []string{"a", "b", "c"} {
		_, _, err := s.Lookup(k)
		sound("lookup", err)
	}
	_, err := s.Value("space", "name")
	sound("value", err)
	sound("values", s.ListValues(ctx, "space", "", func(string, []byte) bool { return true }))
	for _, cutoff := range []time.Time{{}, time.UnixMilli(1_700_000_000_001), time.Now().Add(1 << 60)} {
		_, err := s.Expire(ctx, cutoff, 10)
		sound("expire", err)
	}
	s.EndOf(1)
	sound("quarantine", s.Quarantine(1, "a test"))
	sound("end of quarantine", s.Quarantine(0, ""))
}

package pebblestore_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
)

// Whatever stands in the file that names a store, it is opened under that name, or refused
// with an error that says which file is wrong; and nothing is written then.
func FuzzNameFile(f *testing.F) {
	for _, s := range []string{
		"", "0102030405060708 0\n", "0102030405060708 0", "0102030405060708 1\n", "0102030405060708 -1\n", "0102030405060708 4294967296\n",
		"0102030405060708\n", "010203 0\n", "0000000000000000 0\n", "x y\n", "0102030405060708 0\nmore", "0102030405060708  0\n", "\xff\x00", strings.Repeat("0", 200),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("store", 0o700); err != nil {
			t.Fatal(err)
		}
		w, err := fs.Create("store/HANDFAST", vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(slices.Clone(b)) // with the race detector, Pebble's file overwrites what it was given
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		s, err := pebblestore.Open("store", pebblestore.WithFS(fs))
		if err != nil {
			files, listing := fs.List("store")
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "HANDFAST") || listing != nil || len(files) > 2 { // and LOCK
				t.Fatalf("%q: %v, files %q", b, err, files)
			}
			return
		}
		id := s.Meta().Store.String()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := fs.Open("store/HANDFAST")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // only read
		after, err := io.ReadAll(r)
		if err != nil || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(string(b))), id) || !strings.HasPrefix(string(after), id) {
			t.Fatalf("%q opens store %s and says %q then, %v", b, id, after, err)
		}
	})
}

package pebblestore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// nameFile holds the store's id and its incarnation, beside the database. It is
// there before anything else, so that neither a mistyped path nor the database
// of another program is ever written to. It tells an empty database from one
// that lost everything, and shows when the end of the log is gone: damage there
// looks like a batch that a crash has torn.
const nameFile = "HANDFAST"

// name is what the name file says.
type name struct {
	store xid.StoreID
	// incarnation may be behind that of the database, and is never ahead. It is
	// 0 until the first opening was done.
	incarnation uint32
}

// prepareDirectory makes and names the directory of a new store, and refuses
// one that holds something else or has lost its database.
func prepareDirectory(fs vfs.FS, dir string) (name, error) {
	n, err := readName(fs, fs.PathJoin(dir, nameFile))
	if errors.Is(err, os.ErrNotExist) {
		return nameDirectory(fs, dir)
	}
	if err != nil || n.incarnation == 0 {
		return n, err
	}
	desc, err := pebble.Peek(dir, fs)
	if err == nil && !desc.Exists {
		err = fmt.Errorf("%w: file %s names store %s, but its database is gone", store.ErrCorrupt, nameFile, n.store)
	}
	return n, err
}

func nameDirectory(fs vfs.FS, dir string) (n name, err error) {
	files, err := fs.List(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return n, err
	}
	for _, f := range files {
		if f != "lost+found" && f != "LOCK" && f != nameFile+".new" {
			return n, fmt.Errorf("%w: it holds other files, such as %s", store.ErrNotAStore, f)
		}
	}
	if err := makeDirectory(fs, dir); err != nil {
		return n, err
	}
	if _, err := rand.Read(n.store[:]); err != nil {
		return n, err
	}
	return n, writeName(fs, fs.PathJoin(dir, nameFile), n)
}

func readName(fs vfs.FS, path string) (n name, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return n, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, 100))
	if err != nil {
		return n, err
	}
	var text string
	if _, err := fmt.Sscanf(string(b), "%s %d\n", &text, &n.incarnation); err != nil {
		return n, fmt.Errorf("%w: file %s: %w", store.ErrCorrupt, nameFile, err)
	}
	if n.store, err = xid.ParseStoreID(text); err != nil {
		return n, fmt.Errorf("%w: file %s: %w", store.ErrCorrupt, nameFile, err)
	}
	return n, nil
}

// writeName makes the file whole or not at all.
func writeName(fs vfs.FS, path string, n name) error {
	temp := path + ".new"
	f, err := fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %d\n", n.store, n.incarnation)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(temp, path); err != nil {
		return err
	}
	return syncDirectory(fs, fs.PathDir(path))
}

// makeDirectory makes dir and what is missing above it, durably. XIDs are
// secrets, so others must not read it.
func makeDirectory(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	parent := fs.PathDir(dir)
	if parent != dir {
		if err := makeDirectory(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDirectory(fs, parent)
}

func syncDirectory(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

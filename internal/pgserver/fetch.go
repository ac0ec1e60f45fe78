package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	embedded "github.com/fergusstrange/embedded-postgres"

	"github.com/handfast/handfast/internal/child"
)

const fetchPrefix = "fetch-"

// binaries finds a server or fetches one, once per machine.
func binaries(ctx context.Context, u *account) (string, error) {
	dir, err := Find()
	if !errors.Is(err, ErrNoBinaries) {
		return dir, err
	}
	root, err := cacheDir(u)
	if err != nil {
		return "", err
	}
	bin, err := fetched(ctx, root)
	if err != nil {
		return "", fmt.Errorf("%w, and fetching them failed: %w (install PostgreSQL 15 or later, or name a server with --dsn)", ErrNoBinaries, err)
	}
	return bin, nil
}

// cacheDir is where fetched binaries stay. The home of root is closed to the
// user that runs the server, so root has a place of its own under /var/cache.
func cacheDir(u *account) (string, error) {
	if u != nil {
		return "/var/cache/handfast/postgres", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("a place for PostgreSQL's binaries: %w", err)
	}
	return filepath.Join(cache, "handfast", "postgres"), nil
}

// fetched gives the binaries below root, fetching them at first. Several
// processes may do that at once: each unpacks to a directory of its own, and
// the first to rename it wins. So nobody ever sees half of the files.
func fetched(ctx context.Context, root string) (string, error) {
	version := string(embedded.V15)
	final := filepath.Join(root, version)
	bin := filepath.Join(final, "bin")
	if complete(bin) {
		return bin, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil { //nolint:gosec // the server runs under another user
		return "", err
	}
	child.Sweep(root, fetchPrefix)
	tmp, err := child.MakeDir(root, fetchPrefix)
	if err != nil {
		return "", err
	}
	unpacked := filepath.Join(tmp, version)
	if err := fetch(ctx, tmp, unpacked); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)                           //nolint:errcheck // at worst it stays until the next sweep
	if err := os.Chmod(unpacked, 0o755); err != nil { //nolint:gosec // as above
		return "", err
	}
	if err := os.Rename(unpacked, final); err != nil && !complete(bin) {
		return "", err
	}
	return bin, nil
}

// fetch has the library download and unpack the binaries. The library can't do
// that without also starting a server. An encoding that does not exist makes it
// fail after the unpacking, before there is a process that could be left behind.
func fetch(ctx context.Context, tmp, unpacked string) error {
	port, err := freePort(ctx) // the library looks at it first
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(strconv.Itoa(port), 10, 32)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { // ends with the download
		done <- embedded.NewDatabase(embedded.DefaultConfig().
			Version(embedded.V15).Port(uint32(n)).Encoding("none").
			BinariesPath(unpacked).CachePath(filepath.Join(tmp, "cache")).
			RuntimePath(filepath.Join(tmp, "run")).DataPath(filepath.Join(tmp, "data")).Logger(nil)).Start()
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		// The library still writes to tmp, and panics where that is gone. A
		// later sweep removes it.
		return ctx.Err()
	}
	if complete(filepath.Join(unpacked, "bin")) {
		return nil
	}
	if err == nil {
		err = errors.New("the archive holds no server")
	}
	return errors.Join(err, os.RemoveAll(tmp))
}

package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// binaries finds a server or fetches one, once per machine.
func binaries(ctx context.Context, u *account) (string, error) {
	dir, err := Find()
	if !errors.Is(err, ErrNoBinaries) {
		return dir, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	root := filepath.Join(cache, "handfast", "postgres")
	if u != nil {
		// The home of root is closed to the user that runs the server.
		root = filepath.Join(os.TempDir(), "handfast-postgres")
	}
	bin := filepath.Join(root, "bin")
	if complete(bin) {
		return bin, nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := fetch(root); err != nil {
		return "", fmt.Errorf("%w, and fetching them failed: %w (install PostgreSQL 15 or later, or name a server with --dsn)", ErrNoBinaries, err)
	}
	return bin, nil
}

// fetch lets the library download and unpack the binaries. It also tries to
// start a server, which fails as root; what counts is that the files are there.
func fetch(root string) error {
	data, err := os.MkdirTemp("", "handfast-fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data) //nolint:errcheck // a temporary directory
	pg := embedded.NewDatabase(embedded.DefaultConfig().
		Version(embedded.V15).
		BinariesPath(root).RuntimePath(filepath.Join(data, "run")).DataPath(filepath.Join(data, "data")).
		CachePath(filepath.Join(root, "cache")).Logger(nil))
	err = pg.Start()
	if err == nil {
		err = pg.Stop()
	}
	if complete(filepath.Join(root, "bin")) {
		return nil
	}
	if err == nil {
		err = errors.New("the archive holds no server")
	}
	return err
}

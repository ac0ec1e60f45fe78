package pgserver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
)

// ErrNoBinaries means that no PostgreSQL server is installed in any known place.
var ErrNoBinaries = errors.New("no PostgreSQL server binaries found")

// places are where packages put the server, per system; newest version first wins.
func places() []string {
	all := []string{
		"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
		"/usr/pgsql-*/bin",                                   // PGDG on Red Hat
		"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew, Apple silicon
		"/usr/local/opt/postgresql@*/bin",                    // Homebrew, Intel
		"/opt/homebrew/opt/postgresql/bin",                   //
		"/Library/PostgreSQL/*/bin",                          // EDB on macOS
		"/opt/PostgreSQL/*/bin",                              // EDB on Linux
		"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
	}
	if runtime.GOOS == "windows" {
		all = append(all, `C:\Program Files\PostgreSQL\*\bin`)
	}
	return all
}

// Find gives the directory that holds initdb and postgres: that of PATH, else
// the newest version in the usual places, else ErrNoBinaries.
func Find() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		// PATH often has links; the server's own directory is behind them.
		if real, err := filepath.EvalSymlinks(p); err == nil {
			p = real
		}
		if dir := filepath.Dir(p); complete(dir) {
			return dir, nil
		}
	}
	return newestOf(places())
}

func newestOf(patterns []string) (string, error) {
	var found []string
	for _, pattern := range patterns {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		for _, d := range dirs {
			if complete(d) {
				found = append(found, d)
			}
		}
	}
	if len(found) == 0 {
		return "", ErrNoBinaries
	}
	return slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }), nil
}

func complete(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if runtime.GOOS == "windows" {
			name += ".exe"
		}
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.IsDir() {
			return false
		}
	}
	return true
}

var digits = regexp.MustCompile(`\d+`)

// version is the last number in a path, which is the major version, 0 where
// there is none.
func version(dir string) int {
	all := digits.FindAllString(dir, -1)
	if len(all) == 0 {
		return 0
	}
	n, err := strconv.Atoi(all[len(all)-1])
	if err != nil {
		return 0
	}
	return n
}

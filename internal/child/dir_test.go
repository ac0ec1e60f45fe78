package child_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/handfast/handfast/internal/child"
)

func TestSweepRemovesOnlyWhatTheDeadLeft(t *testing.T) {
	t.Parallel()
	const prefix = "hf-test-"
	base := t.TempDir()
	own, err := child.MakeDir(base, prefix)
	if err != nil {
		t.Fatal(err)
	}
	dead := strconv.Itoa(1 << 30) // no system has ids that high
	stays := map[string]bool{
		own:                                          true,
		filepath.Join(base, prefix+dead+"-1"):        false,
		filepath.Join(base, prefix+"other"):          true,
		filepath.Join(base, "else-"+dead+"-1"):       true,
		filepath.Join(base, prefix+"x"+dead+"-1"):    true,
		filepath.Join(base, prefix+"not-"+dead+"-1"): true,
	}
	for dir := range stays {
		if err := os.MkdirAll(filepath.Join(dir, "inside"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	child.Sweep(base, prefix)
	for dir, want := range stays {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: stays %v, want %v", filepath.Base(dir), err == nil, want)
		}
	}
}

func TestNoBaseIsTheDirectoryForTemporaryFiles(t *testing.T) {
	temp, here := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Chdir(here)
	const prefix = "hf-test-"
	own, err := child.MakeDir("", prefix)
	if err != nil || filepath.Dir(own) != temp {
		t.Fatalf("made %s, %v, want it in %s", own, err, temp)
	}
	left := prefix + strconv.Itoa(1<<30) + "-1"
	for _, base := range []string{temp, here} {
		if err := os.Mkdir(filepath.Join(base, left), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	child.Sweep("", prefix)
	for dir, want := range map[string]bool{own: true, filepath.Join(temp, left): false, filepath.Join(here, left): true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: stays %v, want %v", dir, err == nil, want)
		}
	}
}

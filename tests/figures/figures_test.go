package figures_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/handfast/handfast/tests/figures"
)

func TestARunIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := figures.Run{
		Name: "sim", Command: "go test ./tests/sim", Commit: "abc", Date: "2026-01-02", Seconds: 3,
		Counts: map[string]int64{"seeds": 7}, Failures: []string{"seed 5"},
	}
	for range 2 { // the second is in place of the first
		if err := figures.Write(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := figures.Read(dir, "sim")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestARunIsKeptWhereThereIsADirectory(t *testing.T) {
	t.Parallel()
	run := figures.Run{Name: "sim", Command: "go test ./tests/sim", Commit: "abc"}
	begun := time.Now().Add(-time.Minute)
	if err := figures.Keep("", begun, figures.Run{}); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	if err := figures.Keep(dir, begun, run); err != nil {
		t.Fatal(err)
	}
	if got, err := figures.Read(dir, "sim"); err != nil || got.Seconds < 60 || got.Commit != "abc" || got.Date == "" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWhatNobodyCouldRepeatIsRefused(t *testing.T) {
	t.Parallel()
	for _, run := range []figures.Run{{Name: "a"}, {Command: "go test"}, {Name: "../a", Command: "go test"}} {
		if err := figures.Write(t.TempDir(), run); err == nil {
			t.Errorf("%+v was written", run)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "b.json"), []byte(`{"name":"a"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := figures.Read(dir, "b"); err == nil {
		t.Error("a file of another run was read")
	}
}

package pebblestore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/xid"
)

const childMode = "HANDFAST_PEBBLESTORE_TEST_DIR"

// TestMain can also play a coordinator that writes until it is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childMode); dir != "" {
		writeForEver(dir)
	}
	os.Exit(m.Run())
}

// writeForEver prints the number of each record once it is durable.
func writeForEver(dir string) {
	s, err := pebblestore.Open(dir)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	for n := uint64(1); ; n++ {
		if _, err := s.Apply(store.Batch{Records: []core.Record{begin(s, n)}}, true); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func begin(s store.Store, n uint64) core.Record {
	m := s.Meta()
	now := time.UnixMilli(1_700_000_000_000)
	return core.Record{
		XID:  xid.New(xid.Parts{Begin: now, Store: m.Store, Incarnation: m.Incarnation, Counter: n}),
		Kind: core.RecordBegin, Time: now, Deadline: now.Add(time.Minute),
	}
}

func count(t *testing.T, s store.Store) (n int) {
	t.Helper()
	if err := s.Recover(context.Background(), func(core.Transaction) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKilledProcessLosesNothingItTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := 0
	for range 10 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childMode+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		last := 0
		for lines.Scan() {
			if last, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(lines.Text())
			}
			if last == 100 {
				_ = cmd.Process.Kill() // what it told before it died still comes
			}
		}
		_ = cmd.Wait()
		told += last
	}
	s, err := pebblestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, s); n < told || told < 1000 {
		t.Fatalf("%d records, %d were told", n, told)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// At whichever write the disk starts to fail: nothing that was acknowledged is
// lost, nothing is acknowledged afterwards, and the error says what it is.
func TestEveryWriteMayFail(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		want error
	}{
		"full disk":  {syscall.ENOSPC, store.ErrFull},
		"disk error": {syscall.EIO, store.ErrFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := int64(1); ; at++ {
				if !failAt(t, at, tt.err, tt.want) {
					if at < 20 {
						t.Fatalf("only %d writes in the whole run", at)
					}
					return
				}
			}
		})
	}
}

// failAt fails every write from the at-th on; false: there were fewer.
func failAt(t *testing.T, at int64, fault, want error) bool {
	t.Helper()
	mem := vfs.NewCrashableMem()
	var writes atomic.Int64
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && writes.Add(1) >= at {
			return fault
		}
		return nil
	}))
	fatal := make(chan error, 2)
	s, err := pebblestore.Open("store", pebblestore.WithFS(fs), pebblestore.WithFatal(func(err error) { fatal <- err }))
	acked := 0
	if err == nil {
		for n := uint64(1); n <= 10; n++ {
			if _, err = s.Apply(store.Batch{Records: []core.Record{begin(s, n)}}, true); err != nil {
				break
			}
			acked++
		}
		if err != nil {
			if told := <-fatal; !errors.Is(err, want) || !errors.Is(told, want) {
				t.Fatalf("write %d: %v (fatal was told %v)", at, err, told)
			}
			if _, err := s.Apply(store.Batch{Records: []core.Record{begin(s, 99)}}, true); !errors.Is(err, store.ErrFailed) {
				t.Fatalf("write %d: acknowledged after a failure: %v", at, err)
			}
		}
	} else if !errors.Is(err, want) && !errors.Is(err, fault) {
		t.Fatalf("write %d: %v", at, err)
	}
	failed := err != nil
	after, err := pebblestore.Open("store", pebblestore.WithFS(mem.CrashClone(vfs.CrashCloneCfg{})))
	if err != nil {
		t.Fatalf("write %d: open afterwards: %v", at, err)
	}
	if n := count(t, after); n < acked {
		t.Fatalf("write %d: %d records are left of %d acknowledged", at, n, acked)
	}
	_ = after.Close()
	if s != nil {
		_ = s.Close()
	}
	return failed
}

// A damaged file is an error that says so, or makes no difference; never a
// panic, and never a store without what was acknowledged.
func TestDamagedFilesAreFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const batches, size, last = 30, 100, 5
	const records = batches*size + last
	for round := range 3 { // several openings leave tables, logs and manifests
		s, err := pebblestore.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := range batches / 3 {
			writeBatch(t, s, i*size, size)
		}
		if round == 2 {
			// Damage in the last block of 32 KiB can't be told from a torn batch.
			writeBatch(t, s, batches*size, last)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range files {
		if f.Name() == "LOCK" || strings.HasPrefix(f.Name(), "OPTIONS") || strings.HasPrefix(f.Name(), "marker") {
			continue
		}
		length := fileSize(t, filepath.Join(dir, f.Name()))
		for _, offset := range []int64{0, length / 3, length / 2, length - 1} {
			if length == 0 {
				continue
			}
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			flip(t, filepath.Join(copied, f.Name()), offset)
			if err := readAll(copied, records-last); err != nil {
				if !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("%s at %d: %v", f.Name(), offset, err)
				}
				found++
			}
		}
	}
	if found == 0 {
		t.Fatal("no damage was found")
	}
}

// A store that is never opened again before the damage has one log only.
func TestDamageInTheFirstLogIsFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := pebblestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const batches, size = 200, 10 // about 4 blocks of 32 KiB
	for i := range batches {
		writeBatch(t, s, i*size, size)
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(copied, "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("%q %v", logs, err)
	}
	newest := logs[len(logs)-1]
	if n := fileSize(t, newest); n < 64<<10 {
		t.Fatalf("the log has only %d bytes", n)
	}
	flip(t, newest, 30<<10)
	if err := readAll(copied, batches*size); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("%v", err)
	} else {
		t.Log(err)
	}
}

// A store that lost everything must not be taken for a new one.
func TestLostDatabaseIsNotANewStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := pebblestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	name, err := os.ReadFile(filepath.Join(dir, "HANDFAST"))
	if err != nil || string(name) != s.Meta().Store.String()+" 1\n" {
		t.Fatalf("%q %v", name, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() != "HANDFAST" {
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := pebblestore.Open(dir); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("%v", err)
	}
}

// A log that lost its end may not take back an incarnation: XIDs would be
// issued twice.
func TestIncarnationIsNotTakenBackByADamagedLog(t *testing.T) {
	t.Parallel()
	dir, old := t.TempDir(), t.TempDir()
	for round := range 3 {
		s, err := pebblestore.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The database of before, with the file of now.
	now, err := os.ReadFile(filepath.Join(dir, "HANDFAST"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, "HANDFAST"), now, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pebblestore.Open(old); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("%v", err)
	}
}

func writeBatch(t *testing.T, s store.Store, from, n int) {
	t.Helper()
	var b store.Batch
	for i := range n {
		b.Records = append(b.Records, begin(s, uint64(from+i+1)))
	}
	if _, err := s.Apply(b, true); err != nil {
		t.Fatal(err)
	}
}

func readAll(dir string, want int) error {
	s, err := pebblestore.Open(dir)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // a damaged store
	n := 0
	if err := s.Recover(context.Background(), func(core.Transaction) error { n++; return nil }); err != nil {
		return err
	}
	if n < want {
		return fmt.Errorf("%d of %d records, and no error", n, want)
	}
	return nil
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[offset] ^= 0xff
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

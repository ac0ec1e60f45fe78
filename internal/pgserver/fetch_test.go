package pgserver

import (
	"os"
	"sync"
	"testing"
)

// TestFetchedBinariesRun downloads, so it runs only on request.
func TestFetchedBinariesRun(t *testing.T) {
	if os.Getenv("HANDFAST_TEST_FETCH") == "" {
		t.Skip("set HANDFAST_TEST_FETCH=1 to download PostgreSQL")
	}
	t.Parallel()
	root, err := os.MkdirTemp("/tmp", "handfast-fetch-test-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	bins := make([]string, 2)
	var both sync.WaitGroup
	for i := range bins {
		both.Go(func() {
			var err error
			if bins[i], err = fetched(t.Context(), root); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if t.Failed() {
		return
	}
	if bins[0] != bins[1] {
		t.Fatalf("two places: %v", bins)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 1 {
		t.Fatalf("in the cache: %v, %v; want the binaries alone", left, err)
	}
	s, err := Start(t.Context(), Options{Binaries: bins[0]})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

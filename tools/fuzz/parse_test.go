package main

import (
	"errors"
	"os"
	"slices"
	"testing"
)

func TestTargetsAreFoundInTheFilesOfTests(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"/a/a_test.go": "func FuzzA(f *testing.F) {\n}\n\nfunc fuzz(f *testing.F) {}\nfunc FuzzB(f *testing.F) { fuzz(f) }\n// func FuzzC(f *testing.F)\n",
		"/c/c_test.go": "func TestX(t *testing.T) {}\n",
		"/c/d_test.go": "func FuzzD(f *testing.F) {}\n",
	}
	read := func(name string) ([]byte, error) {
		if s, ok := files[name]; ok {
			return []byte(s), nil
		}
		return nil, os.ErrNotExist
	}
	got, err := targets([]byte("m/a|/a/a_test.go\nm/b\nm/c|/c/c_test.go|/c/d_test.go\n"), read)
	if want := []target{{"m/a", "FuzzA"}, {"m/a", "FuzzB"}, {"m/c", "FuzzD"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := targets([]byte("m/e|/e/e_test.go\n"), read); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that can't be read: %v", err)
	}
}

func TestTheLastLineCounts(t *testing.T) {
	t.Parallel()
	const clean = `fuzz: elapsed: 0s, gathering baseline coverage: 17/17 completed, now fuzzing with 2 workers
fuzz: elapsed: 3s, execs: 3628 (1209/sec), new interesting: 59 (total: 76)
fuzz: elapsed: 10s, execs: 22482 (3023/sec), new interesting: 142 (total: 159)
PASS
`
	for name, tc := range map[string]struct {
		out  string
		want counted
	}{
		"clean": {clean, counted{22482, 142, "failed without an input of its own", false}},
		"crash": {clean + "--- FAIL: FuzzA\n    Failing input written to testdata/fuzz/FuzzA/4874\n", counted{22482, 142, "testdata/fuzz/FuzzA/4874", false}},
		"late":  {clean[:len(clean)-5] + "--- FAIL: FuzzA (20.08s)\n    context deadline exceeded\nFAIL\nexit status 1\n", counted{22482, 142, "failed without an input of its own", true}},
		"hangs": {clean[:len(clean)-5] + "--- FAIL: FuzzA (20.08s)\n    --- FAIL: FuzzA (0.00s)\n    context deadline exceeded\nFAIL\n", counted{22482, 142, "failed without an input of its own", false}},
		"none":  {"FAIL\n", counted{0, 0, "failed without an input of its own", false}},
	} {
		if got := count([]byte(tc.out)); got != tc.want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

// Every error that a client can meet is explained to operators.
func TestDocumentationExplainsEveryErrorReason(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for n, name := range handfastv1.ErrorReason_name {
		if n != 0 && !strings.Contains(string(raw), "| `"+strings.TrimPrefix(name, "ERROR_REASON_")+"` |") {
			t.Errorf("docs/operations.md does not explain %s", name)
		}
	}
}

// A guarantee names the tests that would fail without it; they have to exist.
func TestGuaranteesNameTestsThatExist(t *testing.T) {
	t.Parallel()
	const root = "../../../../"
	raw, err := os.ReadFile(root + "docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	_, promises, _ := strings.Cut(string(raw), "## Guaranteed")
	promises, table, _ := strings.Cut(promises, "## How each is tested")
	for _, m := range regexp.MustCompile(`(?m)^(\d+)\. `).FindAllStringSubmatch(promises, -1) {
		if !strings.Contains(table, "\n| "+m[1]+" |") {
			t.Errorf("guarantee %s names no test", m[1])
		}
	}
	namesTests(t, root, "docs/guarantees.md", table)
}

// So do those that are named to whoever comes from DTM.
func TestFromDTMNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	const root = "../../../../"
	raw, err := os.ReadFile(root + "docs/from-dtm.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(raw), "## What is better")
	table, _, _ = strings.Cut(table, "## What differs")
	namesTests(t, root, "docs/from-dtm.md", table)
}

// namesTests looks for the tests that a table names, each behind its package.
func namesTests(t *testing.T, root, file, table string) {
	t.Helper()
	pkg, named := "", 0
	for _, m := range regexp.MustCompile("`([a-z/]+)`:|`(Test\\w+)`").FindAllStringSubmatch(table, -1) {
		if m[1] != "" {
			pkg = m[1]
			continue
		}
		named++
		if !definesTest(t, root+pkg, m[2]) {
			t.Errorf("%s names %s in %s, which is not there", file, m[2], pkg)
		}
	}
	if named < 8 {
		t.Errorf("only %d tests were found in the table", named)
	}
}

func definesTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}

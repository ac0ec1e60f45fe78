package shop_test

import (
	"os"
	"strings"
	"testing"
)

// The code in the README is this package's, from its first type on.
func TestReadmeShowsThisCode(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("shop.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, found := strings.Cut(string(code), "// Orders is")
	if !found || !strings.Contains(string(readme), "```go\n// Orders is"+body+"```\n") {
		t.Error("README.md does not show shop.go as it is")
	}
}

package cli

import (
	"os"
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

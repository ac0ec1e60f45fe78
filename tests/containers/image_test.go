package containers

import (
	"strings"
	"testing"
)

// The image has no shell and no libraries: if the binary runs there, it is static.
func TestBinaryRunsInAnEmptyImage(t *testing.T) {
	t.Parallel()
	requireEngine(t)
	e := newEngine(t)
	image := e.image(t, "../..", "./cmd/handfast", "handfast", "../../Dockerfile")
	if out := e.finish(t, image, "version"); !strings.HasPrefix(out, "handfast ") {
		t.Errorf("version printed %q", out)
	}
}

package bench

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Log is what services log to: each record is a line of the example's output, without
// its time. Empty attributes are left out.
func (b *Bench) Log() *slog.Logger { return slog.New(&logHandler{say: b.Say}) }

type logHandler struct {
	say   func(format string, args ...any)
	attrs []slog.Attr
}

func (*logHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		if v := a.Value.String(); v != "" && v != "<nil>" {
			fmt.Fprintf(&line, "  %s=%s", a.Key, v)
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.say("%s", line.String())
	return nil
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{say: h.say, attrs: slices.Concat(h.attrs, attrs)}
}

func (h *logHandler) WithGroup(string) slog.Handler { return h }

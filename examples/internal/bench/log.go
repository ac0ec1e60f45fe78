package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// Log is what services log to: each record is a line of the example's output, without
// its time. Empty attributes are left out.
func (b *Bench) Log() *slog.Logger { return slog.New(&logHandler{say: b.Say}) }

// LogTo is Log for a process of its own.
func LogTo(out io.Writer) *slog.Logger {
	return slog.New(&logHandler{say: func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }})
}

// Lines takes the output of another process, and says it with a name before each line.
func (b *Bench) Lines(name string) io.Writer { return &lines{b: b, name: name} }

type lines struct {
	b    *Bench
	name string
	part string // of a line that has no end yet
}

func (l *lines) Write(p []byte) (int, error) {
	all := strings.Split(l.part+string(p), "\n")
	for _, line := range all[:len(all)-1] {
		l.b.Say("%s: %s", l.name, line)
	}
	l.part = all[len(all)-1]
	return len(p), nil
}

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

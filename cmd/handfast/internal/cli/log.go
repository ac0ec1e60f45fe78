package cli

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/handfast/handfast/cmd/handfast/internal/config"
)

// newLogger makes the log that the settings ask for.
func newLogger(w io.Writer, s config.Server) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, fmt.Errorf("log-level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}

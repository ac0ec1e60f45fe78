package pebblestore

import (
	"log/slog"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Option changes how a store is opened.
type Option func(*options)

type options struct {
	fs       vfs.FS
	log      *slog.Logger
	cache    int64
	memTable uint64
	fatal    func(error)
}

func defaults() options {
	return options{fs: vfs.Default, log: slog.New(slog.DiscardHandler), cache: 64 << 20, memTable: 64 << 20, fatal: func(error) {}}
}

// WithFS uses another file system, such as one in memory.
func WithFS(fs vfs.FS) Option { return func(o *options) { o.fs = fs } }

// WithLogger sets where the store reports what it does. Default: nowhere.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

// WithCacheSize sets the size of the block cache in bytes. Default: 64 MiB.
func WithCacheSize(n int64) Option { return func(o *options) { o.cache = n } }

// WithFatal sets what is called, once and in a goroutine of its own, when the
// open store can't be written any more. It should stop the process; until then
// every Apply fails with store.ErrFailed.
func WithFatal(f func(error)) Option { return func(o *options) { o.fatal = f } }

// WithMemTableSize sets how many bytes of records are collected in memory
// before they are written to a table. Default: 64 MiB.
func WithMemTableSize(n uint64) Option { return func(o *options) { o.memTable = n } }

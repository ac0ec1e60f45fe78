package store

import (
	"context"
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Store keeps what the coordinator must not forget. All methods may be called
// by several goroutines at once. After Apply has failed once, every later
// Apply fails: an fsync that is tried again is how data is lost.
//
// Any implementation has to pass the suite in package storetest.
type Store interface {
	// Meta tells whose store this is. It does not change while the store is open,
	// but for Horizon and Quarantine.
	Meta() Meta

	// Apply writes the batch atomically. With sync it returns when this batch
	// and every batch applied before it survive a power loss; without, when
	// the batch is visible to reads. position is the place of the batch in the
	// store's log: greater than that of every batch applied before this call.
	Apply(b Batch, sync bool) (position uint64, err error)

	// Recover hands every unfinished transaction to fn, folded from its
	// records. Meant to be called once, before the first Apply.
	Recover(ctx context.Context, fn func(core.Transaction) error) error

	// Finished looks up a finished transaction.
	Finished(id xid.ID) (tx core.Transaction, found bool, err error)

	// ListFinished hands finished transactions to fn, newest XID first,
	// beginning with the first XID below before (the zero ID: with the newest),
	// until fn returns false.
	ListFinished(ctx context.Context, before xid.ID, fn func(core.Transaction) bool) error

	// Lookup gives the XID of the transaction that was begun with a key, open or
	// finished. A key is forgotten with its transaction. Like all reads it shows what
	// may be lost with a crash: it is for a request to the engine, whose reply waits.
	Lookup(key string) (id xid.ID, found bool, err error)

	// Value gives what SetValue has kept under a name in a space; nil where there
	// is nothing. It is for the little that front-ends have to remember beside
	// transactions.
	Value(space, name string) ([]byte, error)

	// SetValue keeps a value, durably when it returns; nil drops it. A space is
	// not empty and holds no zero byte.
	SetValue(space, name string, v []byte) error

	// ListValues hands the values of a space to fn, ordered by name, beginning
	// with the first name from the given one on, until fn returns false. fn must
	// not keep v.
	ListValues(ctx context.Context, space, from string, fn func(name string, v []byte) bool) error

	// Expire drops finished transactions that finished before cutoff, at most
	// limit of them, and raises the horizon to the begin time of the newest it
	// drops. The horizon is durable before anything is dropped. It returns how
	// many it dropped.
	Expire(ctx context.Context, cutoff time.Time, limit int) (int, error)

	// Quarantine makes every transaction of an incarnation below the given one
	// read-only, durably; reason says what was seen. 0 ends the quarantine.
	Quarantine(below uint32, reason string) error

	// EndOf tells at which position an earlier incarnation ended. found is
	// false for an incarnation that this store never had.
	EndOf(incarnation uint32) (position uint64, found bool)

	// Position is that of the newest batch.
	Position() uint64

	// Flushes counts the forced writes to disk since the store was opened.
	Flushes() uint64

	// Close releases the store. What was applied without sync may be lost.
	Close() error
}

// Meta is what a store knows of itself.
type Meta struct {
	Store xid.StoreID
	// Incarnation is raised by one, durably, each time the store is opened.
	Incarnation uint32
	// Horizon: a finished transaction begun at or before it may have been dropped.
	Horizon time.Time
	// QuarantineBelow is 0 when the store is not in quarantine.
	QuarantineBelow  uint32
	QuarantineReason string
}

// Batch is a set of changes that become visible together.
type Batch struct {
	// Records are appended, in this order.
	Records []core.Record
	// Finished replaces all records of each of these transactions by its final state.
	Finished []core.Transaction
}

// Errors of a store, for errors.Is.
var (
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("store is in use by another process")
	// ErrCorrupt: what was read is not what was written.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrFailed: a write failed earlier; nothing can be written any more.
	ErrFailed = errors.New("store has failed")
	// ErrFull: the disk is full.
	ErrFull = errors.New("disk is full")
	// ErrNotAStore: the directory holds something else.
	ErrNotAStore = errors.New("not a handfast store")
)

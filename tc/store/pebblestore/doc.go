// Package pebblestore is the coordinator's store on an embedded Pebble database.
//
//	key                          value
//	m                            store.v1.Meta: identity, incarnation, horizon, quarantine
//	o <xid 35> <seq 4>           one record of an unfinished transaction
//	f <xid 35>                   the final state of a finished one
//	x <finished ms 8> <xid 35>   when f may go: its key, or nothing
//	k <key>                      the XID that was begun with the key
//	v <space> 0 <name>           a value of a front-end
//
// Beside the database the file HANDFAST holds the store's id and incarnation. It
// is written first, so that a directory of something else is never touched and a
// store that lost everything is not taken for a new one.
//
//	Apply ─► queue ─► writer ─► Pebble ─► guard ─► disk
//	  ▲                  └────► syncer ──┘  │
//	  └── done, or failed ◄─────────────────┘ first failed write
//
// The position of a batch is the sequence number that Pebble gave it. It grows
// with the write-ahead log, so whatever is durable has a lower position than
// whatever is not, and it goes on growing after a restart.
//
// # What is assumed, what happens in a crash
//
// A synced Apply has been through fsync. Pebble writes one log for all shards
// and joins concurrent syncs. After a crash, what survives is a prefix of the
// applied batches that holds every synced one. A batch is there whole or not at
// all; a torn end of the log is cut off. A disk that lies about fsync is not
// detected here. Checksums find damage anywhere but in the last block of 32 KiB of
// the newest log: there it looks like a batch that was torn by the crash, and takes
// with it what follows. Where that takes back an incarnation, the file HANDFAST
// shows it. What tests/disk does to whole coordinators rests on the same: a sector
// is written whole or not at all, and a sync that returns is done.
//
// A failed write is the end: nothing is written from then on, whoever waits gets
// the error, and the function given to WithFatal is called, which is meant to
// stop the process. Pebble itself does not survive a failed write: it tries again
// for ever while it opens or flushes, and panics with its locks in disorder when
// it changes to a new log. So it never sees one: its goroutines are stopped where
// they stand, and what they hold is free when the process ends.
package pebblestore

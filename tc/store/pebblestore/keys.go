package pebblestore

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

const (
	prefixMeta     = 'm'
	prefixOpen     = 'o'
	prefixFinished = 'f'
	prefixExpiry   = 'x'
	prefixKey      = 'k'
	prefixValue    = 'v'
)

const xidLen = len(xid.ID{})

func metaKey() []byte { return []byte{prefixMeta} }

func appendOpenKey(b []byte, id xid.ID, seq uint32) []byte {
	b = append(append(b, prefixOpen), id[:]...)
	return binary.BigEndian.AppendUint32(b, seq)
}

func parseOpenKey(k []byte) (xid.ID, uint32, error) {
	if len(k) != 1+xidLen+4 {
		return xid.ID{}, 0, fmt.Errorf("%w: key %x", store.ErrCorrupt, k)
	}
	return xid.ID(k[1 : 1+xidLen]), binary.BigEndian.Uint32(k[1+xidLen:]), nil
}

func appendFinishedKey(b []byte, id xid.ID) []byte {
	return append(append(b, prefixFinished), id[:]...)
}

func appendExpiryKey(b []byte, at time.Time, id xid.ID) []byte {
	b = binary.BigEndian.AppendUint64(append(b, prefixExpiry), uint64(at.UnixMilli()))
	return append(b, id[:]...)
}

// appendKey is where the XID is that a key of a caller's stands for.
func appendKey(b []byte, key string) []byte { return append(append(b, prefixKey), key...) }

func valueKey(space, name string) []byte {
	b := append([]byte{prefixValue}, space...)
	return append(append(b, 0), name...)
}

func parseExpiryKey(k []byte) (xid.ID, error) {
	if len(k) != 1+8+xidLen {
		return xid.ID{}, fmt.Errorf("%w: key %x", store.ErrCorrupt, k)
	}
	return xid.ID(k[9:]), nil
}

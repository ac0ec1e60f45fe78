package xid

import (
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ID is the identity of one global transaction, its XID. It names the store
// that issued it and the store's incarnation, so that a coordinator can tell
// an XID it lost from one it never issued. 96 of its bits are random: whoever
// knows an XID may join the transaction, so nobody can guess one.
//
// The zero ID is no transaction. IDs are comparable and sort by begin time,
// both as bytes and as text.
//
// Layout, big endian:
//
//	 0..5   begin, milliseconds since 1970
//	 6..9   incarnation of the store
//	10..17  id of the store
//	18..22  counter within the incarnation
//	23..34  random
type ID [35]byte

// TextLen is the length in bytes of every XID in text form.
const TextLen = 56

// ErrMalformed is wrapped by every error of Parse.
var ErrMalformed = errors.New("malformed XID")

// Base32 with the extended-hex alphabet keeps the order of the bytes.
var text = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// StoreID names a coordinator's store for its whole life. It is random.
type StoreID [8]byte

// String gives 16 hexadecimal digits.
func (s StoreID) String() string { return hex.EncodeToString(s[:]) }

// ParseStoreID reads what StoreID.String wrote.
func ParseStoreID(s string) (StoreID, error) {
	var id StoreID
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("store id %.40q: want %d hexadecimal digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return StoreID{}, fmt.Errorf("store id %.40q: %w", s, err)
	}
	return id, nil
}

// Parts is what an ID is made of.
type Parts struct {
	Begin       time.Time // millisecond precision
	Incarnation uint32
	Store       StoreID
	Counter     uint64 // the lowest 40 bits count
	Random      [12]byte
}

// New puts an ID together.
func New(p Parts) ID {
	var id ID
	var b8 [8]byte
	binary.BigEndian.PutUint64(b8[:], uint64(p.Begin.UnixMilli()))
	copy(id[0:6], b8[2:])
	binary.BigEndian.PutUint32(id[6:10], p.Incarnation)
	copy(id[10:18], p.Store[:])
	binary.BigEndian.PutUint64(b8[:], p.Counter)
	copy(id[18:23], b8[3:])
	copy(id[23:], p.Random[:])
	return id
}

// Parse reads the text form.
func Parse(s string) (ID, error) {
	var id ID
	if len(s) != TextLen {
		return id, fmt.Errorf("%w: %d bytes long, want %d", ErrMalformed, len(s), TextLen)
	}
	n, err := text.Decode(id[:], []byte(s))
	if err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	// The decoder skips line ends, which would give one ID several texts.
	if n != len(id) {
		return ID{}, fmt.Errorf("%w: it holds a line end", ErrMalformed)
	}
	if id == (ID{}) {
		return id, fmt.Errorf("%w: all zero", ErrMalformed)
	}
	return id, nil
}

// FromBytes reads an ID from its 35 bytes.
func FromBytes(b []byte) (ID, error) {
	var id ID
	if len(b) != len(id) {
		return id, fmt.Errorf("%w: %d bytes, want %d", ErrMalformed, len(b), len(id))
	}
	copy(id[:], b)
	if id.IsZero() {
		return id, fmt.Errorf("%w: all zero", ErrMalformed)
	}
	return id, nil
}

// String gives the text form, 56 lower-case letters and digits; "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return text.EncodeToString(id[:])
}

// IsZero tells whether this is no transaction.
func (id ID) IsZero() bool { return id == ID{} }

// Begin is when the coordinator issued the ID, by its clock.
func (id ID) Begin() time.Time { return id.Parts().Begin }

// Incarnation is the incarnation of the store that issued the ID.
func (id ID) Incarnation() uint32 { return binary.BigEndian.Uint32(id[6:10]) }

// Store is the store that issued the ID.
func (id ID) Store() StoreID { return StoreID(id[10:18]) }

// Parts takes the ID apart.
func (id ID) Parts() Parts {
	var b8 [8]byte
	var p Parts
	copy(b8[2:], id[0:6])
	p.Begin = time.UnixMilli(int64(binary.BigEndian.Uint64(b8[:])))
	p.Incarnation = id.Incarnation()
	p.Store = id.Store()
	b8 = [8]byte{}
	copy(b8[3:], id[18:23])
	p.Counter = binary.BigEndian.Uint64(b8[:])
	copy(p.Random[:], id[23:])
	return p
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ID{}
		return nil
	}
	v, err := Parse(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

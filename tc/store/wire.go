package store

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/handfast/handfast/xid"
)

// The encoder and the decoder speak protobuf without the generated types: this
// is the hot path, and the generated code allocates, skips what it does not
// know and takes the same message in many spellings. Here there is one: fields
// in ascending order, each once, none with its zero value.

// latest is the last time that can be stored: the year 9999, in milliseconds.
const latest = 253_402_300_799_999

type encoder struct {
	b   []byte
	err error
}

func (e *encoder) uint(field protowire.Number, v uint64) {
	if v != 0 {
		e.b = protowire.AppendVarint(protowire.AppendTag(e.b, field, protowire.VarintType), v)
	}
}

func (e *encoder) flag(field protowire.Number, v bool) {
	if v {
		e.uint(field, 1)
	}
}

// time writes milliseconds since 1970. The zero time is 0; nothing here happens in 1970.
func (e *encoder) time(field protowire.Number, t time.Time) {
	if t.IsZero() {
		return
	}
	ms := t.UnixMilli()
	if ms <= 0 || ms > latest {
		e.err = fmt.Errorf("time %s", t)
		return
	}
	e.uint(field, uint64(ms))
}

func (e *encoder) text(field protowire.Number, s string) {
	if s == "" {
		return
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, string(utf8.RuneError))
	}
	e.b = protowire.AppendString(protowire.AppendTag(e.b, field, protowire.BytesType), s)
}

func (e *encoder) xid(field protowire.Number, id xid.ID) {
	if !id.IsZero() {
		e.b = protowire.AppendTag(e.b, field, protowire.BytesType)
		e.b = append(append(e.b, byte(len(id))), id[:]...)
	}
}

func (e *encoder) id(field protowire.Number, id [16]byte) {
	if id != [16]byte{} {
		e.b = protowire.AppendTag(e.b, field, protowire.BytesType)
		e.b = append(append(e.b, byte(len(id))), id[:]...)
	}
}

func (e *encoder) message(field protowire.Number, write func(*encoder)) {
	e.b = protowire.AppendTag(e.b, field, protowire.BytesType)
	start := len(e.b)
	write(e)
	n := len(e.b) - start
	// The length comes before what it counts.
	e.b = protowire.AppendVarint(e.b, uint64(n))
	var length [10]byte
	k := copy(length[:], e.b[start+n:])
	copy(e.b[start+k:], e.b[start:start+n])
	copy(e.b[start:], length[:k])
}

// decoder walks over the fields of a message and keeps the first thing that
// did not fit. next must be called before each field is read.
type decoder struct {
	b        []byte
	repeated uint32 // bit n: field n may come several times
	field    int32  // not a protowire.Number, of which only some are constants
	kind     protowire.Type
	err      error
}

var errCut = errors.New("it is cut off")

// next reads the number of the next field; false at the end and after an error.
func (d *decoder) next() bool {
	if d.err != nil || len(d.b) == 0 {
		return false
	}
	v, ok := d.varint()
	if !ok {
		return false
	}
	number, kind := protowire.DecodeTag(v)
	field := int32(number)
	again := field == d.field && field > 0 && field < 32 && d.repeated>>field&1 == 1
	if field <= d.field && !again {
		d.fail("field %d comes after field %d", field, d.field)
		return false
	}
	d.field, d.kind = field, kind
	return true
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) unknown() { d.fail("field %d is not known", d.field) }

// varint takes the shortest spelling only.
func (d *decoder) varint() (uint64, bool) {
	v, n := protowire.ConsumeVarint(d.b)
	if n < 0 {
		d.fail("%w", errCut)
		return 0, false
	}
	if n != protowire.SizeVarint(v) {
		d.fail("a number is longer than it has to be")
		return 0, false
	}
	d.b = d.b[n:]
	return v, true
}

func (d *decoder) uint(what string, highest uint64) uint64 {
	if d.kind != protowire.VarintType {
		d.fail("%s has wire type %d", what, d.kind)
		return 0
	}
	v, ok := d.varint()
	if ok && (v == 0 || v > highest) {
		d.fail("%s is %d", what, v)
		return 0
	}
	return v
}

func (d *decoder) enum(what string, highest uint64) uint8 { return uint8(d.uint(what, highest)) }

func (d *decoder) time(what string) time.Time {
	ms := d.uint(what, latest)
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

// bytes gives a part of the input.
func (d *decoder) bytes(what string) []byte {
	if d.kind != protowire.BytesType {
		d.fail("%s has wire type %d", what, d.kind)
		return nil
	}
	n, ok := d.varint()
	if !ok {
		return nil
	}
	if n > uint64(len(d.b)) {
		d.fail("%s: %w", what, errCut)
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) text(what string) string {
	v := d.bytes(what)
	if d.err == nil && (len(v) == 0 || !utf8.Valid(v)) {
		d.fail("%s is no text", what)
		return ""
	}
	return string(v)
}

func (d *decoder) id(what string) (id [16]byte) {
	v := d.bytes(what)
	if d.err == nil && len(v) != len(id) {
		d.fail("%s is %d bytes long", what, len(v))
		return id
	}
	copy(id[:], v)
	if d.err == nil && id == [16]byte{} {
		d.fail("%s is zero", what)
	}
	return id
}

func (d *decoder) xid(what string) xid.ID {
	v := d.bytes(what)
	if d.err != nil {
		return xid.ID{}
	}
	id, err := xid.FromBytes(v)
	if err != nil {
		d.fail("%s: %w", what, err)
	}
	return id
}

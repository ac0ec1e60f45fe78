package client

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// message is a ClientMessage that is put together from frames which were
// encoded before. Putting encoded parts one behind the other is how protobuf
// defines merging, so the id can be joined to a frame late.
type message struct{ buf *[]byte }

const (
	fieldFrames protowire.Number = 1 // ClientMessage.frames
	fieldID     protowire.Number = 1 // ClientFrame.id
)

// appendFrame adds one frame. The id 0 is not written.
func appendFrame(b []byte, id uint64, body []byte) []byte {
	n := len(body)
	if id != 0 {
		n += protowire.SizeTag(fieldID) + protowire.SizeVarint(id)
	}
	b = protowire.AppendTag(b, fieldFrames, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	if id != 0 {
		b = protowire.AppendTag(b, fieldID, protowire.VarintType)
		b = protowire.AppendVarint(b, id)
	}
	return append(b, body...)
}

// codec sends a message as it is. Everything else is plain protobuf.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name makes the content type that of protobuf.
func (codec) Name() string { return "proto" }

// Marshal hands a message over to gRPC, which gives its buffer back to the
// pool once it is on the wire.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case message:
		return mem.BufferSlice{mem.NewBuffer(v.buf, mem.DefaultBufferPool())}, nil
	case proto.Message:
		b, err := proto.Marshal(v)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	default:
		return nil, fmt.Errorf("handfast: can't encode %T", v)
	}
}

// Unmarshal reads a protobuf message.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("handfast: can't decode into %T", v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return proto.Unmarshal(buf.ReadOnlyData(), m)
}

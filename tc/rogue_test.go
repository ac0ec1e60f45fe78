package tc_test

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// hello greets, in one of the ways in which that can be done.
func (p *rogue) hello(how int) {
	h := &pb.Hello{ClientName: "fuzz"}
	id := uint64(0)
	switch how {
	case 0:
		id = 1 << 40
	case 1:
		h = &pb.Hello{}
	case 2:
		return // not at all
	case 3:
		h.ClientName = strings.Repeat("x", 10_000)
	case 4:
		h.ClientName = "a\nb"
	case 5:
		h.Witness = &pb.Witness{StoreId: "x", Position: math.MaxUint64}
	case 6:
		h.Witness = &pb.Witness{StoreId: p.store, Incarnation: 1}
	case 7:
		h.Witness = &pb.Witness{StoreId: "00000000000000aa", Incarnation: math.MaxUint32, Position: math.MaxUint64}
	}
	p.add(&pb.ClientFrame{Id: id, Kind: &pb.ClientFrame_Hello{Hello: h}})
}

// unasked answers what nobody has asked, and asks about the transaction of another.
func (p *rogue) unasked() *pb.ClientFrame {
	f := &pb.ClientFrame{}
	switch p.next() % 10 {
	case 0: // of a transaction that is not decided
		r := pick(&p.frames, []string{"0d000000-0000-0000-0000-000000000007", goodResource, "", "x"})
		f.Kind = &pb.ClientFrame_SettleResult{SettleResult: &pb.SettleResult{ResourceId: r, Items: []*pb.SettleItemResult{
			{Xid: p.witness, Outcome: pb.Outcome(p.next() % 5), Done: p.next()%2 == 0, NeedsAttention: p.next()%2 == 0, Error: "e"},
		}}}
	case 1: // it is a vote only where it says more
		f.Kind = &pb.ClientFrame_AskVotesResult{AskVotesResult: &pb.AskVotesResult{ResourceId: p.resource(), Items: []*pb.AskItemResult{
			{Xid: p.witness, BranchId: p.witnessBranch, Vote: pb.Vote_VOTE_OPEN}, {Xid: p.witness, BranchId: p.branch(), Vote: pb.Vote(p.next() % 6)},
		}}}
	case 2:
		f.Kind = &pb.ClientFrame_CallResult{CallResult: &pb.CallResult{
			Xid: p.witness, BranchId: pick(&p.frames, []string{p.witnessBranch, p.branch()}), Op: pb.Op(p.next() % 5), Attempt: uint32(p.next()), Verdict: pb.Verdict(p.next() % 6),
			Incarnation: pick(&p.frames, []uint32{0, 1, 2, math.MaxUint32}), Result: []byte("1"), Error: "e",
		}}
	case 3:
		f.Kind = &pb.ClientFrame_CallResult{CallResult: &pb.CallResult{
			Xid: p.xid(), BranchId: p.branch(), Op: pb.Op(p.next() % 5), Attempt: math.MaxUint32 - uint32(p.next()), Verdict: pb.Verdict(p.next() % 6), Incarnation: uint32(p.next() % 3),
		}}
	case 4:
		f.Kind = &pb.ClientFrame_ExamineResult{ExamineResult: &pb.ExamineResult{Id: uint64(p.next()), Error: &pb.Error{Code: int32(p.next()) - 100}, Chosen: -1}}
	case 5:
		f.Kind = &pb.ClientFrame_Detach{Detach: &pb.Detach{ResourceIds: []string{"0d000000-0000-0000-0000-000000000007", p.resource()}}}
	case 6:
		p.nextID++
		f.Id = p.nextID
		f.Kind = &pb.ClientFrame_WaitFor{WaitFor: &pb.WaitForRequest{Xid: p.witness, WaiterXid: pick(&p.frames, []string{"", p.xids[0]})}}
	case 7:
		p.nextID++
		f.Id = p.nextID
		f.Kind = &pb.ClientFrame_Get{Get: &pb.GetRequest{Xid: p.witness, Waits: true}}
	case 8: // more than one command ever had
		items := slices.Repeat([]*pb.SettleItemResult{{Xid: p.xids[1], Outcome: pb.Outcome_OUTCOME_COMMITTED, Done: p.next()%2 == 0}}, 300)
		f.Kind = &pb.ClientFrame_SettleResult{SettleResult: &pb.SettleResult{ResourceId: p.resource(), Items: items}}
	default:
		p.nextID++
		f = attachFrame(&pb.AttachedResource{ResourceId: p.resource(), Name: "fuzz", Witnesses: []*pb.Witness{
			{StoreId: p.store, Incarnation: uint32(p.next() % 2)}, {StoreId: "00000000000000aa", Incarnation: math.MaxUint32, Position: math.MaxUint64},
		}})
		f.Id = p.nextID
	}
	return f
}

// badID uses ids that are none, that are taken, and that are large.
func (p *rogue) badID() {
	f, _ := p.frame()
	switch p.next() % 8 {
	case 0:
		f.Id = 0
		p.add(f)
	case 1, 2:
		f.Id = math.MaxUint64
		p.add(f)
	case 3, 4:
		f.Id = max(p.nextID, 1)
		p.add(f)
	default:
		p.ask(f)
		p.add(proto.CloneOf(f)) // the same once more
	}
}

// raw sends bytes as a frame, whatever they are.
func (p *rogue) raw() {
	n := min(p.next()%64, len(p.b))
	b := p.b[:n]
	p.b = p.b[n:]
	f := new(pb.ClientFrame)
	if proto.Unmarshal(b, f) == nil {
		p.add(f)
		return
	}
	p.flush()
	p.noProto = true
	m := new(pb.ClientMessage)
	m.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b))
	p.send(m)
}

// spoil makes one field of a frame empty, huge or meaningless.
func (p *rogue) spoil(f *pb.ClientFrame) {
	c := content(f)
	if c == nil {
		return
	}
	m := c.ProtoReflect()
	for range 4 {
		fields := m.Descriptor().Fields()
		if fields.Len() == 0 {
			return
		}
		fd := fields.Get(p.next() % fields.Len())
		if fd.Message() != nil && !fd.IsList() && p.next()%4 != 0 {
			m = m.Mutable(fd).Message()
			continue
		}
		if fd.IsList() {
			list := m.Mutable(fd).List()
			for range pick(&p.frames, []int{1, 33, 65, 257, 1025}) {
				if fd.Message() != nil {
					list.AppendMutable()
				} else {
					list.Append(p.value(fd))
				}
			}
			return
		}
		if fd.Message() != nil {
			m.Clear(fd)
			return
		}
		m.Set(fd, p.value(fd))
		return
	}
}

// value is one that a field hardly ever has.
func (p *rogue) value(fd protoreflect.FieldDescriptor) protoreflect.Value {
	long := pick(&p.frames, []int{0, 129, 257, 2049, 64<<10 + 1, 1<<20 + 1})
	if long > 4096 {
		if p.huge++; p.huge > 2 { // a message must not be refused for its size alone
			long = 300
		}
	}
	n := p.next()
	switch fd.Kind() { //nolint:exhaustive // the contract has no others
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(pick(&p.frames, []string{strings.Repeat("x", long), "\x00", "\u202e", "a\nb"}))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(strings.Repeat("x", long)))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(pick(&p.frames, []protoreflect.EnumNumber{0, -1, 99, math.MaxInt32}))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n%2 == 0)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(math.MaxUint32 - uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(math.MaxUint64 - uint64(n))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(math.MinInt32 + int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(math.MinInt64 + int64(n))
	}
	return fd.Default()
}

// alarm hears of panics in what the coordinator logs.
type alarm struct{ text atomic.Pointer[string] }

func (a *alarm) logger() *slog.Logger { return slog.New(a) }

// Enabled implements slog.Handler.
func (a *alarm) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }

// Handle implements slog.Handler.
func (a *alarm) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		text := r.Message
		r.Attrs(func(at slog.Attr) bool { text += " " + at.String(); return true })
		a.text.Store(&text)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (a *alarm) WithAttrs([]slog.Attr) slog.Handler { return a }

// WithGroup implements slog.Handler.
func (a *alarm) WithGroup(string) slog.Handler { return a }

func (a *alarm) check(t *testing.T) {
	t.Helper()
	if text := a.text.Swap(nil); text != nil {
		t.Fatal(*text)
	}
}

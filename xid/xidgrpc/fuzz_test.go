package xidgrpc_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidgrpc"
)

// idOf tells what the metadata say, by rules of its own: every value the text of one XID.
func idOf(values []string) (id xid.ID, ok bool) {
	for i, v := range values {
		next, err := xid.Parse(v)
		if err != nil || i > 0 && next != id {
			return xid.ID{}, false
		}
		id = next
	}
	return id, true
}

// wellRefused tells whether an error is one that names the key and is no longer than one line.
func wellRefused(err error) bool {
	return status.Code(err) == codes.InvalidArgument && strings.Contains(err.Error(), xid.Header) && len(err.Error()) < 500
}

// Whatever metadata hold, a handler runs under the one XID that is there, or under none
// where none was sent, or it does not run; and no call goes out under two.
func FuzzMetadata(f *testing.F) {
	mine := xid.New(xid.Parts{Incarnation: 1, Counter: 1})
	other := xid.New(xid.Parts{Incarnation: 1, Counter: 2}).String()
	id := mine.String()
	for _, h := range []string{"", id, other, id + "," + id, id + "," + other, id[1:], strings.ToUpper(id), " " + id, id + "\n", "0", strings.Repeat("0", xid.TextLen), ",", "\xff"} {
		f.Add(h, true)
		f.Add(h, false)
	}
	unary, stream := xidgrpc.UnaryServerInterceptor(), xidgrpc.StreamServerInterceptor()
	f.Fuzz(func(t *testing.T, text string, inContext bool) {
		md := metadata.MD{}
		if text != "" {
			md.Set(xid.Header, strings.Split(text, ",")...)
		}
		values := md.Get(xid.Header)
		want, good := idOf(values)
		ctx := context.Background()
		if inContext { // what did not come with the call does not count
			ctx = xid.NewContext(ctx, mine)
		}
		in, ran := metadata.NewIncomingContext(ctx, md), 0
		look := func(ctx context.Context) {
			ran++
			if got, ok := xid.FromContext(ctx); ok == want.IsZero() || got != want {
				t.Fatalf("%q: it runs under %s, %t", values, got, ok)
			}
		}
		_, err := unary(in, nil, nil, func(ctx context.Context, _ any) (any, error) { look(ctx); return struct{}{}, nil })
		errStream := stream(nil, streamOf{ctx: in}, nil, func(_ any, s grpc.ServerStream) error { look(s.Context()); return nil })
		if good != (err == nil) || good != (errStream == nil) || good != (ran == 2) || !good && (ran != 0 || !wellRefused(err) || !wellRefused(errStream)) {
			t.Fatalf("%q: ran %d times, %v, %v", values, ran, err, errStream)
		}

		out := metadata.NewOutgoingContext(xid.NewContext(context.Background(), mine), md)
		var sent metadata.MD
		err = xidgrpc.UnaryClientInterceptor()(out, "/s/m", nil, nil, nil,
			func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				sent, _ = metadata.FromOutgoingContext(ctx)
				return nil
			})
		if fits := good && (len(values) == 0 || want == mine); fits != (err == nil) || fits != (sent != nil) || err != nil && !wellRefused(err) {
			t.Fatalf("%q: sent %t, %v", values, sent != nil, err)
		}
		if got, ok := idOf(sent.Get(xid.Header)); sent != nil && (!ok || got != mine) {
			t.Fatalf("%q was sent for %s", sent.Get(xid.Header), mine)
		}
	})
}

type streamOf struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamOf) Context() context.Context { return s.ctx }

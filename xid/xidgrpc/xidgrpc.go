package xidgrpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/xid"
)

// UnaryClientInterceptor sends the XID of the context along with unary calls.
//
// An XID that is already in the outgoing metadata is left there if it is the
// same; another one fails the call with INVALID_ARGUMENT, for a call belongs to
// one transaction. Without an XID in the context the call is left as it is.
func UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		ctx, err := outgoing(ctx)
		if err != nil {
			return err
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

// StreamClientInterceptor sends the XID of the context along with streams, by
// the rules of UnaryClientInterceptor.
func StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		streamer grpc.Streamer, opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		ctx, err := outgoing(ctx)
		if err != nil {
			return nil, err
		}
		return streamer(ctx, desc, cc, method, opts...)
	}
}

// DialOptions are both client interceptors, behind those that are there already.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(UnaryClientInterceptor()),
		grpc.WithChainStreamInterceptor(StreamClientInterceptor()),
	}
}

// UnaryServerInterceptor puts the XID that came with a unary call into its
// context. A malformed XID, or several different ones, fail the call with
// INVALID_ARGUMENT before the handler runs.
func UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := incoming(ctx)
		if err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// StreamServerInterceptor puts the XID that came with a stream into its
// context, by the rules of UnaryServerInterceptor.
func StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		old := ss.Context()
		ctx, err := incoming(old)
		if err != nil {
			return err
		}
		if ctx != old {
			ss = &stream{ServerStream: ss, ctx: ctx}
		}
		return handler(srv, ss)
	}
}

// ServerOptions are both server interceptors, behind those that are there already.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(UnaryServerInterceptor()),
		grpc.ChainStreamInterceptor(StreamServerInterceptor()),
	}
}

// stream is a ServerStream with another context.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }

// outgoing adds the XID of the context to its outgoing metadata.
func outgoing(ctx context.Context) (context.Context, error) {
	id, ok := xid.FromContext(ctx)
	if !ok {
		return ctx, nil
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	there := md.Get(xid.Header)
	if len(there) == 0 {
		return metadata.AppendToOutgoingContext(ctx, xid.Header, id.String()), nil
	}
	for _, s := range there {
		other, err := xid.Parse(s)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "outgoing metadata %q: %v", xid.Header, err)
		}
		if other != id {
			return nil, status.Errorf(codes.InvalidArgument,
				"outgoing metadata %q holds %s, but the context belongs to %s", xid.Header, other, id)
		}
	}
	return ctx, nil
}

// incoming puts the XID of the incoming metadata into the context. One that the
// context holds from elsewhere does not count: the caller did not send it.
func incoming(ctx context.Context) (context.Context, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	var id xid.ID
	for i, s := range md.Get(xid.Header) {
		next, err := xid.Parse(s)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "metadata %q: %v", xid.Header, err)
		}
		if i > 0 && next != id {
			return nil, status.Errorf(codes.InvalidArgument, "metadata %q: two different XIDs, %s and %s", xid.Header, id, next)
		}
		id = next
	}
	if have, ok := xid.FromContext(ctx); ok == !id.IsZero() && have == id {
		return ctx, nil
	}
	return xid.NewContext(ctx, id), nil
}

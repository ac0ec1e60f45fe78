package caller

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/tc/core"
)

// frame is an encoded message.
type frame struct{ bytes []byte }

// rawCodec sends and takes messages as they are. To the other side it is protobuf.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("a message of type %T is none of ours", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(f.bytes)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("a message of type %T is none of ours", v)
	}
	f.bytes = data.Materialize()
	return nil
}

func (g *grpcCalls) call(ctx context.Context, j *job, out outgoing) result {
	md := make(metadata.MD, 6+len(j.call.Action.Header))
	for _, h := range j.call.Action.Header {
		md.Append(h.Name, h.Value)
	}
	headers(j, func(name, value string) { md.Set(name, value) })
	return g.invoke(metadata.NewOutgoingContext(ctx, md), j, out.payload, judgeStatus)
}

// invoke sends a payload. judge says what a status other than OK means.
func (g *grpcCalls) invoke(
	ctx context.Context, j *job, payload []byte, judge func(*job, *status.Status) result, opts ...grpc.CallOption,
) result {
	conn, err := g.get(j.to)
	if err != nil {
		return mistake("%s: %v", j.to.Host, err)
	}
	began := conn.answers.Load()
	var answer frame
	err = conn.cc.Invoke(ctx, j.to.Method, &frame{payload}, &answer, opts...)
	timedOut := ctx.Err() != nil
	if !timedOut {
		conn.answers.Add(1)
	}
	// A connection that has told nobody anything while this call waited may be dead.
	g.put(conn, timedOut && conn.answers.Load() == began)
	if err != nil {
		r := judge(j, status.Convert(err))
		r.interrupted = r.verdict == core.Unsure && timedOut
		if r.verdict == core.Unsure && conn.refused.Load() {
			r.attention = true
		}
		return r
	}
	return result{verdict: core.Done, body: answer.bytes}
}

// judgeStatus says what a status other than OK means.
func judgeStatus(j *job, st *status.Status) result {
	text := fmt.Sprintf("%s answered %s: %s", j.to.Host, st.Code(), st.Message())
	switch st.Code() {
	case codes.Aborted, codes.FailedPrecondition:
		if ours(st) {
			return unsure("%s, which is about a transaction and not about the action", text)
		}
		r := result{verdict: core.Failed, text: st.Message()}
		if st.Code() == codes.FailedPrecondition {
			r.verdict = core.NotYet
		}
		if cut(r.text) == "" {
			r.text = fmt.Sprintf("%s answered %s", j.to.Host, st.Code())
		}
		return r
	case codes.ResourceExhausted:
		if isTooLong(st) {
			return tooLong(j)
		}
		return unsure("%s", text)
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
		codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated, codes.DataLoss:
		return mistake("%s", text)
	case codes.OK, codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.Unavailable:
		return unsure("%s", text)
	default:
		return unsure("%s", text)
	}
}

// isTooLong tells whether a status is gRPC's own, of an answer that is longer than allowed.
func isTooLong(st *status.Status) bool {
	return st.Code() == codes.ResourceExhausted && strings.HasPrefix(st.Message(), "grpc: received message larger than max")
}

// ours tells whether a status is an error of Handfast itself, such as a row that is
// locked, which a service has passed on: ABORTED and FAILED_PRECONDITION are its words
// for that, but say nothing about what the action asked for.
func ours(st *status.Status) bool {
	if len(st.Proto().GetDetails()) == 0 {
		return false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == "handfast" {
			return true
		}
	}
	return false
}

// options are for all connections.
func (g *grpcCalls) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(MaxResult)),
		grpc.WithMaxHeaderListSize(maxHeader),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
		grpc.WithUserAgent("handfast"),
		grpc.WithIdleTimeout(0), // conns closes them
	}
}

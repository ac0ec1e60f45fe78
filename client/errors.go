package client

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// ErrorDomain is the domain of the google.rpc.ErrorInfo details that this
// project attaches to gRPC statuses.
const ErrorDomain = "handfast"

// ErrClosed is found in every error of a client that was closed.
var ErrClosed = errors.New("handfast: client is closed")

// Error is an answer of the coordinator that refuses a request. A refused
// request changed nothing.
type Error struct {
	Reason  pb.ErrorReason // UNSPECIFIED when the status names none
	Code    codes.Code
	Message string
	XID     xid.ID // zero when the status names none
	Field   string // the field that is wrong, for INVALID_FIELD
	// Metadata is what else the reason has to say: see pb.ErrorReason.
	Metadata map[string]string
}

// Error gives the coordinator's message, which names the XID, and the reason.
func (e *Error) Error() string {
	if e.Reason == pb.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return fmt.Sprintf("handfast: %s (%s)", e.Message, e.Code)
	}
	return fmt.Sprintf("handfast: %s (%s)", e.Message, reasonName(e.Reason))
}

// GRPCStatus gives the status that the error was made of, so that a gRPC
// handler can return the error as it is.
func (e *Error) GRPCStatus() *status.Status {
	st := status.New(e.Code, valid(e.Message))
	if e.Reason == pb.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return st
	}
	// Details hold valid UTF-8 or nothing at all, and a key of a row may be any bytes.
	meta := make(map[string]string, len(e.Metadata)+1)
	for k, v := range e.Metadata {
		meta[valid(k)] = valid(v)
	}
	if !e.XID.IsZero() {
		meta["xid"] = e.XID.String()
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reasonName(e.Reason), Domain: ErrorDomain, Metadata: meta}}
	if e.Field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: valid(e.Field), Description: valid(e.Message)},
		}})
	}
	if with, err := st.WithDetails(details...); err == nil {
		st = with
	}
	return st
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// FromStatus reads an Error out of a gRPC status, as it comes from the unary
// calls of the coordinator or from another service that passes one on.
func FromStatus(st *status.Status) *Error {
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() != ErrorDomain {
				continue
			}
			e.Reason = parseReason(d.GetReason())
			e.Metadata = maps.Clone(d.GetMetadata())
			if id, err := xid.Parse(e.Metadata["xid"]); err == nil {
				e.XID = id
				delete(e.Metadata, "xid")
			}
		case *errdetails.BadRequest:
			if v := d.GetFieldViolations(); len(v) > 0 {
				e.Field = v[0].GetField()
			}
		}
	}
	return e
}

// AsError finds the coordinator's refusal in an error: an *Error, or a gRPC
// status with an ErrorInfo of the domain "handfast".
func AsError(err error) (*Error, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e, true
	}
	g, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err)
	if !ok {
		return nil, false
	}
	e := FromStatus(g.GRPCStatus())
	return e, e.Reason != pb.ErrorReason_ERROR_REASON_UNSPECIFIED
}

// ReasonOf gives the reason of the Error in err; UNSPECIFIED where there is none.
func ReasonOf(err error) pb.ErrorReason {
	if e, ok := AsError(err); ok {
		return e.Reason
	}
	return pb.ErrorReason_ERROR_REASON_UNSPECIFIED
}

const reasonPrefix = "ERROR_REASON_"

func reasonName(r pb.ErrorReason) string { return strings.TrimPrefix(r.String(), reasonPrefix) }

func parseReason(s string) pb.ErrorReason {
	return pb.ErrorReason(pb.ErrorReason_value[reasonPrefix+strings.TrimPrefix(s, reasonPrefix)])
}

func fromWire(e *pb.Error) *Error {
	code := e.GetCode()
	if code <= int32(codes.OK) || code > int32(codes.Unauthenticated) {
		code = int32(codes.Unknown) // an error must not look like success further on
	}
	return FromStatus(status.FromProto(&spb.Status{Code: code, Message: e.GetMessage(), Details: e.GetDetails()}))
}

// InterruptedError is a request that ended without an answer: its context
// ended, or the client was closed, or the coordinator refuses the session.
type InterruptedError struct {
	// Op is the request, such as "Commit".
	Op string
	// Sent tells that the request may have reached the coordinator, so that
	// its effect is unknown. False: it never left this process and has none.
	Sent bool
	// Err is why it ended: the cause of the context's end, ErrClosed, or the
	// refusal of the session.
	Err error
	// Conn is why there was no session at that time; nil where there was one.
	Conn error
}

// Error says what is known of the effect and why.
func (e *InterruptedError) Error() string {
	effect := "it was not sent"
	if e.Sent {
		effect = "its effect is unknown"
	}
	if e.Conn != nil {
		return fmt.Sprintf("handfast: %s ended without an answer, %s: %v (no session: %v)", e.Op, effect, e.Err, e.Conn)
	}
	return fmt.Sprintf("handfast: %s ended without an answer, %s: %v", e.Op, effect, e.Err)
}

// Unwrap gives Err and Conn.
func (e *InterruptedError) Unwrap() []error {
	if e.Conn == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Conn}
}

// GRPCStatus lets a gRPC handler return the error as it is: UNAVAILABLE where
// the request had no effect, UNKNOWN where nobody knows.
func (e *InterruptedError) GRPCStatus() *status.Status {
	if e.Sent {
		return status.New(codes.Unknown, e.Error())
	}
	return status.New(codes.Unavailable, e.Error())
}

package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "handfast"

// refusal is an error with a reason. Keys and values of meta alternate.
func refusal(code codes.Code, reason pb.ErrorReason, message string, meta ...string) *status.Status {
	info := &errdetails.ErrorInfo{
		Domain: errorDomain,
		Reason: strings.TrimPrefix(reason.String(), "ERROR_REASON_"),
	}
	for i := 0; i+1 < len(meta); i += 2 {
		if info.Metadata == nil {
			info.Metadata = make(map[string]string, len(meta)/2)
		}
		info.Metadata[meta[i]] = meta[i+1]
	}
	return withDetails(status.New(code, message), info)
}

func withDetails(st *status.Status, details ...protoadapt.MessageV1) *status.Status {
	with, err := st.WithDetails(details...)
	if err != nil {
		return st // a status without details is better than none
	}
	return with
}

// invalid refuses a request for the content of one field.
func invalid(field, format string, args ...any) error {
	return badField(codes.InvalidArgument, field, fmt.Sprintf(format, args...))
}

// badField is invalid with the code of the caller's choice.
func badField(code codes.Code, field, what string) error {
	text := field + ": " + what
	st := refusal(code, pb.ErrorReason_ERROR_REASON_INVALID_FIELD, text, "field", field)
	return withDetails(st, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: field, Description: text},
	}}).Err()
}

// limit refuses a request because of a bound of the coordinator.
func limit(n int, format string, args ...any) error {
	return refusal(codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_LIMIT, fmt.Sprintf(format, args...),
		"limit", strconv.Itoa(n)).Err()
}

func draining() error {
	return refusal(codes.Unavailable, pb.ErrorReason_ERROR_REASON_DRAINING,
		"the coordinator is shutting down").Err()
}

// coreError translates a refusal of the machine.
func coreError(e *core.Error) error {
	meta := []string{"xid", e.XID.String()}
	code, reason := codes.Internal, pb.ErrorReason_ERROR_REASON_UNSPECIFIED
	switch e.Kind {
	case core.ErrUnknownXID:
		code, reason = codes.NotFound, pb.ErrorReason_ERROR_REASON_UNKNOWN_XID
	case core.ErrExpiredXID:
		code, reason = codes.NotFound, pb.ErrorReason_ERROR_REASON_EXPIRED_XID
	case core.ErrForeignStore:
		code, reason = codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_FOREIGN_STORE
	case core.ErrQuarantined:
		code, reason = codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_QUARANTINED
	case core.ErrRolledBack:
		code, reason = codes.Aborted, pb.ErrorReason_ERROR_REASON_ROLLED_BACK
		meta = append(meta, "rollback_reason", pb.RollbackReason(e.Reason).String(), "cause", e.Cause)
	case core.ErrCommitted:
		code, reason = codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_COMMITTED
	case core.ErrBranchConflict:
		code, reason = codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_BRANCH_CONFLICT
	case core.ErrUnknownBranch:
		code, reason = codes.NotFound, pb.ErrorReason_ERROR_REASON_UNKNOWN_BRANCH
	case core.ErrLimit:
		code, reason = codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_LIMIT
		meta = append(meta, "limit", e.Message)
	case core.ErrWrongState:
		code, reason = codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_WRONG_STATE
	}
	return refusal(code, reason, e.Message, meta...).Err()
}

// engineError translates an error of the engine, or of a context.
func engineError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, engine.ErrFull):
		return refusal(codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_LIMIT,
			"the coordinator has more to do than it can queue; try again", "limit", "queue").Err()
	case errors.Is(err, engine.ErrFailed):
		return refusal(codes.Internal, pb.ErrorReason_ERROR_REASON_STORE_FAILED,
			"the coordinator can't write its store any more and stops: "+firstLine(err)).Err()
	case errors.Is(err, engine.ErrStopped):
		return draining()
	case errors.Is(err, engine.ErrQuarantined):
		return refusal(codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_QUARANTINED, err.Error()).Err()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		return status.Error(codes.Internal, firstLine(err))
	}
}

// firstLine leaves stacks out of what clients see.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// frameError puts an error into a frame.
func frameError(id uint64, err error) *pb.ServerFrame {
	p := status.Convert(err).Proto()
	return &pb.ServerFrame{Id: id, Kind: &pb.ServerFrame_Error{Error: &pb.Error{
		Code: p.GetCode(), Message: p.GetMessage(), Details: p.GetDetails(),
	}}}
}

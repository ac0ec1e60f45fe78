package client

import (
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// The key of a row may be any bytes, as in a database in SQL_ASCII.
func TestAnErrorWithBytesOfAnotherEncodingStaysWhatItIs(t *testing.T) {
	t.Parallel()
	e := &Error{
		Code: codes.Aborted, Reason: pb.ErrorReason_ERROR_REASON_LOCK_CONFLICT, Message: "held: \xff", Field: "a\xff",
		Metadata: map[string]string{"key": "\xe4", "t\xff": "x"},
	}
	got, ok := AsError(e.GRPCStatus().Err())
	if !ok || got.Reason != e.Reason || got.Metadata["key"] != "\uFFFD" || got.Field != "a\uFFFD" || got.Message != "held: \uFFFD" {
		t.Errorf("got %+v, %v", got, ok)
	}
}

package fence

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/action"
)

// The HTTP headers, and in lower case the keys of gRPC metadata, that name a call.
// HeaderXID is not the header that carries the XID of a context between services
// ([xid.Header]), so nobody joins the transaction by mistake: what an action does in a
// database is undone by its compensation, and not by AT mode as well.
const (
	HeaderXID     = action.HeaderXID     // 56 lower-case letters and digits
	HeaderBranch  = action.HeaderBranch  // 32 hexadecimal digits
	HeaderAction  = action.HeaderAction  // forward, commit or rollback
	HeaderAttempt = action.HeaderAttempt // from 1, decimal; may be missing
	HeaderKey     = action.HeaderKey     // Call.Key; may be missing
)

// FromHTTP reads the call that a request is. It uses the request's headers and
// nothing else, and may be called concurrently. Errors, for errors.Is: ErrNoCall
// where the request has no header of a call, ErrMalformed where one is missing or
// wrong; the text names the header and what would be right, and may be given back
// with status 400.
func FromHTTP(r *http.Request) (Call, error) {
	return read("header", r.Header.Values)
}

// HTTPStatus is how to answer a call over HTTP that ended with err: 200 where that is
// nil, 400 for what was no call, 409 for what Is target.ErrFailed, so for ErrLate, 425
// for target.ErrNotYet, and otherwise 503, with which it is called again.
func HTTPStatus(err error) int {
	switch {
	case err == nil:
		return http.StatusOK
	case errors.Is(err, ErrNoCall), errors.Is(err, ErrMalformed):
		return http.StatusBadRequest
	case errors.Is(err, target.ErrFailed):
		return http.StatusConflict
	case errors.Is(err, target.ErrNotYet):
		return http.StatusTooEarly
	default:
		return http.StatusServiceUnavailable
	}
}

// FromGRPC reads the call that the incoming metadata of ctx names, like FromHTTP;
// codes.InvalidArgument is the status for its errors.
func FromGRPC(ctx context.Context) (Call, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return read("metadata", md.Get)
}

// FromValues reads the call that the headers of a message name, wherever it came
// from. values gives all values of a header by its name, such as HeaderXID, and is
// asked for each name in that very spelling; for NATS it is nats.Header.Values. Errors
// are those of FromHTTP.
func FromValues(values func(name string) []string) (Call, error) {
	return read("header", values)
}

// read finds a call in what get gives for each name. kind says what that is.
func read(kind string, get func(string) []string) (Call, error) {
	fail := func(name, format string, args ...any) (Call, error) {
		return Call{}, fmt.Errorf("%w: %s %s: %s", ErrMalformed, kind, name, fmt.Sprintf(format, args...))
	}
	value := map[string]string{}
	for _, name := range []string{HeaderXID, HeaderBranch, HeaderAction, HeaderAttempt, HeaderKey} {
		vs := slices.Compact(slices.Clone(get(name)))
		if len(vs) > 1 {
			return fail(name, "%d different values; want one", len(vs))
		}
		if len(vs) == 1 {
			value[name] = strings.TrimSpace(vs[0])
		}
	}
	if len(value) == 0 {
		return Call{}, fmt.Errorf("%w: %s %s is missing", ErrNoCall, kind, HeaderXID)
	}
	if len(get(xid.Header)) > 0 {
		return fail(xid.Header, "a call of an action must not carry the XID of a context as well; send %s alone", HeaderXID)
	}
	for _, want := range []struct{ name, what string }{
		{HeaderXID, "an XID of 56 letters and digits"}, {HeaderBranch, "a branch of 32 hexadecimal digits"}, {HeaderAction, "forward, commit or rollback"},
	} {
		if value[want.name] == "" {
			return fail(want.name, "missing; want %s", want.what)
		}
	}
	var c Call
	var err error
	if c.XID, err = xid.Parse(value[HeaderXID]); err != nil {
		return fail(HeaderXID, "%v", err)
	}
	if c.Branch, err = xid.ParseBranchID(value[HeaderBranch]); err != nil {
		return fail(HeaderBranch, "%v", err)
	}
	if c.Action, err = action.Parse(value[HeaderAction]); err != nil {
		return fail(HeaderAction, "%v", err)
	}
	if s, ok := value[HeaderAttempt]; ok {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n == 0 {
			return fail(HeaderAttempt, "%.40q; want a number from 1 to 4294967295", s)
		}
		c.Attempt = uint32(n)
	}
	if s, ok := value[HeaderKey]; ok && s != c.Key() {
		return fail(HeaderKey, "%.120q; want %q, which the other headers make", s, c.Key())
	}
	return c, nil
}

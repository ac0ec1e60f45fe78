package fence

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"

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

// FromGRPC reads the call that the incoming metadata of ctx names, like FromHTTP;
// codes.InvalidArgument is the status for its errors.
func FromGRPC(ctx context.Context) (Call, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return read("metadata", md.Get)
}

// FromValues reads the call that the headers of a message name, wherever it came
// from. values gives all values of a header by its name, such as HeaderXID, and is
// asked for each name in that very spelling; for NATS it is nats.Header.Values. Errors
// are those of FromHTTP. Whoever received a message through a broker fences
// [Call.Delivery] of it.
func FromValues(values func(name string) []string) (Call, error) {
	return read("header", values)
}

// Set names the call in the headers of a request to a participant, in place of any
// other call. It takes the header out that would let the participant join the
// transaction. A call that lacks a part is refused by its receiver.
func (c Call) Set(h http.Header) {
	c.put(h.Set, h.Del)
}

// Outgoing is Set for outgoing gRPC metadata: that of ctx, with the call, is in the
// context that it returns.
func (c Call) Outgoing(ctx context.Context) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	if !ok {
		md = metadata.MD{}
	}
	c.put(func(k, v string) { md.Set(k, v) }, md.Delete)
	return metadata.NewOutgoingContext(ctx, md)
}

func (c Call) put(set func(name, value string), del func(name string)) {
	del(xid.Header)
	set(HeaderXID, c.XID.String())
	set(HeaderBranch, c.Branch.String())
	set(HeaderAction, c.Action.String())
	set(HeaderKey, c.Key())
	if c.Attempt == 0 {
		del(HeaderAttempt)
		return
	}
	set(HeaderAttempt, strconv.FormatUint(uint64(c.Attempt), 10))
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
	if c.Action, err = ParseAction(value[HeaderAction]); err != nil {
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

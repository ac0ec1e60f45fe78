package xid

import "context"

// Header is the name of the HTTP header and the gRPC metadata key that carries an XID.
const Header = "handfast-xid"

type contextKey struct{}

// NewContext returns a context whose calls belong to the transaction id. The
// zero ID gives a context without a transaction.
func NewContext(ctx context.Context, id ID) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext tells which transaction the context belongs to. ok is false
// where it belongs to none.
func FromContext(ctx context.Context) (id ID, ok bool) {
	id, _ = ctx.Value(contextKey{}).(ID)
	return id, !id.IsZero()
}

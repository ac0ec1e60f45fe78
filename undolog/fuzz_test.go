package undolog_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// A name of a prepared transaction has one spelling; what another writes is not ours.
func FuzzGID(f *testing.F) {
	id, b := xid.New(xid.Parts{Incarnation: 1, Counter: 2}), xid.BranchID{1}
	f.Add(undolog.GID(id, b))
	f.Add("handfast:" + id.String() + ":")
	f.Add(strings.ToUpper(undolog.GID(id, b)))
	f.Add("handfast:handfast:" + id.String() + ":" + b.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, gid string) {
		id, b, ok := undolog.ParseGID(gid)
		switch {
		case ok && undolog.GID(id, b) != gid:
			t.Fatalf("%q reads as %q", gid, undolog.GID(id, b))
		case !ok && (!id.IsZero() || b != xid.BranchID{}):
			t.Fatalf("%q is none of ours, and names %s, %s", gid, id, b)
		}
	})
}

// What a server puts into the detail of an error never becomes more than an error.
func FuzzErrorsOfPostgres(f *testing.F) {
	f.Add("HF001", "held", `{"handfast": "conflict", "holder": "x", "table": "t", "key": "1"}`)
	f.Add("40001", "", `{"handfast": "conflict", "holder": 1}`)
	f.Add("HF001", "\xff", `{"handfast": "conflict"`)
	f.Add("", "", "null")
	f.Fuzz(func(t *testing.T, code, message, detail string) {
		c, ok := undolog.AsConflict(&pgconn.PgError{Code: code, Message: message, Detail: detail})
		if ok != (c != nil) {
			t.Fatalf("%v, %v", c, ok)
		}
		if ok && (c.Error() != message || c.SQLState != code || c.Unwrap() == nil) {
			t.Fatalf("%+v", c)
		}
	})
}

package xid_test

import (
	"context"
	"fmt"

	"github.com/handfast/handfast/xid"
)

// A service that gets an XID over its own transport reads it and puts it into
// the context; calls with that context then belong to the transaction.
func ExampleNewContext() {
	id, err := xid.Parse("01hjugc3pa000001s0820c20a1o6500g0000002891grg6q3i4gghkg5")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := xid.NewContext(context.Background(), id)

	got, ok := xid.FromContext(ctx)
	fmt.Println(ok, got == id)
	// Output: true true
}

func ExampleParse_malformed() {
	_, err := xid.Parse("not-an-xid")
	fmt.Println(err)
	// Output: malformed XID: 10 bytes long, want 56
}

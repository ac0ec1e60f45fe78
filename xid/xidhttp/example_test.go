package xidhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidhttp"
)

// Both ends of a request between two services.
func Example() {
	srv := httptest.NewServer(xidhttp.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		id, ok := xid.FromContext(r.Context())
		fmt.Println("the handler runs under", id, ok)
	})))
	defer srv.Close()

	c := http.Client{Transport: &xidhttp.Transport{}}
	// tm.Do does this for you.
	ctx := xid.NewContext(context.Background(), xid.New(xid.Parts{Begin: time.UnixMilli(0), Incarnation: 1, Counter: 1}))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := c.Do(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = resp.Body.Close()
	// Output: the handler runs under 00000000000000010000000000000000000020000000000000000000 true
}

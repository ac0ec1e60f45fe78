package tm_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/tm"
)

// reserveStock and charge stand for calls to other services. Those services
// take part when the interceptors of package xidgrpc carry the XID to them.
func reserveStock(context.Context) error { return nil }
func charge(context.Context) error       { return errors.New("the account is empty") }

// Both calls take effect, or neither does.
func ExampleManager_Do() {
	c, err := client.Dial("localhost:4263", client.WithName("order"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	m := tm.New(c, tm.WithTimeout(10*time.Second))

	err = m.Do(context.Background(), func(ctx context.Context) error {
		if err := reserveStock(ctx); err != nil {
			return err
		}
		return charge(ctx)
	}, tm.WithName("place order"))

	var conflict *tm.LockConflictError
	var unknown *tm.OutcomeUnknownError
	switch {
	case err == nil:
		fmt.Println("committed")
	case errors.As(err, &conflict):
		fmt.Println("try again later:", conflict.Table, "is held by", conflict.Holder)
	case errors.Is(err, tm.ErrRolledBack):
		fmt.Println("nothing happened:", err)
	case errors.As(err, &unknown):
		fmt.Println("ask later what became of", unknown.XID)
	default:
		fmt.Println(err)
	}
}

package message_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
)

// commitOrder stands for a local transaction of the sender.
func commitOrder(context.Context) error { return errors.New("out of stock") }

// The mail goes out if the order is committed, also where this process dies between the
// commit and Send.
func ExampleMessage_Prepare() {
	c, err := client.Dial("localhost:4263", client.WithName("orders"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()

	ctx := context.Background()
	prepared, err := message.New("order placed").
		To(target.HTTP("http://mail/send", target.Payload(map[string]any{"order": 7}))).
		Prepare(ctx, tm.New(c), message.CheckBack(target.Handler("orders", "is-placed", target.Payload(7)), 30*time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := commitOrder(ctx); err != nil {
		_ = prepared.Drop(ctx, err) // or the check says so
		return
	}
	_ = prepared.Send(ctx) // or the check says so
}

package tcc_test

import (
	"context"
	"fmt"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
)

// Stock is reserved and money is held; both are confirmed, or both cancelled.
func ExampleCall() {
	c, err := client.Dial("localhost:4263", client.WithName("orders"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	m := tm.New(c)

	err = m.Do(context.Background(), func(ctx context.Context) error {
		_, err := tcc.Call(ctx, m, tcc.Branch{
			Name:    "stock",
			Confirm: target.HTTP("http://stock/confirm", target.Payload("${own}")), // what Try answered
			Cancel:  target.HTTP("http://stock/cancel", target.Payload("${own}")),
		}, tcc.Post(nil, "http://stock/reserve", map[string]any{"item": "tea", "count": 2}))
		if err != nil {
			return err
		}
		_, err = tcc.Call(ctx, m, tcc.Branch{
			Name:    "money",
			Confirm: target.Handler("payments", "capture"),
			Cancel:  target.Handler("payments", "release"),
		}, func(_ context.Context, id target.Identity) ([]byte, error) {
			// Any call will do; id.Key() makes it one effect.
			return []byte(`{"hold":"` + id.Key() + `"}`), nil
		})
		return err
	})
	fmt.Println(err)
}

package main

import (
	"context"

	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
)

// own is the saga of transfer.go without DTM's client, and with the same banks: they are
// called as DTM's server calls them, so their barrier knows what for.
func (b *banks) own(ctx context.Context, m *tm.Manager, from, to money) error {
	_, err := saga.New("transfer").
		Step("withdraw", target.HTTP(b.north+"/withdraw", target.DTM()), saga.Input(from),
			saga.Compensate(target.HTTP(b.north+"/withdraw/undo", target.DTM()))).
		Step("deposit", target.HTTP(b.south+"/deposit", target.DTM()), saga.Input(to),
			saga.Compensate(target.HTTP(b.south+"/deposit/undo", target.DTM()))).
		Run(ctx, m, tm.WithWaitSettled())
	return err
}

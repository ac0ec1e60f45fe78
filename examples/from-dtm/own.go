package main

import (
	"context"

	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
)

// own is the saga of transfer.go without DTM's client, and with the same banks: what
// their barrier wants to know stands in the URLs.
func (b *banks) own(ctx context.Context, m *tm.Manager, from, to money) error {
	t, err := m.Begin(ctx, tm.WithName("transfer"))
	if err != nil {
		return err
	}
	branch := func(url, branch, op string) target.Target {
		return target.HTTP(url + "?trans_type=saga&gid=" + t.XID.String() + "&branch_id=" + branch + "&op=" + op)
	}
	s := saga.New("transfer").
		Step("withdraw", branch(b.north+"/withdraw", "01", "action"), saga.Input(from),
			saga.Compensate(branch(b.north+"/withdraw/undo", "01", "compensate"))).
		Step("deposit", branch(b.south+"/deposit", "02", "action"), saga.Input(to),
			saga.Compensate(branch(b.south+"/deposit/undo", "02", "compensate")))
	if err := s.SubmitAs(ctx, m, t); err != nil {
		return err
	}
	return m.Wait(ctx, t.XID, tm.WithWaitSettled())
}

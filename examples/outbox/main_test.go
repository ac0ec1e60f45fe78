package main

import (
	"context"
	"errors"
	"testing"

	"github.com/handfast/handfast/examples/internal/bench"
)

func TestItRunsAndDeliversWhatIsCommitted(t *testing.T) {
	t.Parallel()
	bench.Check(t, stage,
		"delivery 1: done, and the answer gets lost",
		"delivery 2: answered",
		"afterwards   signup: 1 customer   mails: 1 sent",
		"rolled back: the coupon is used already",
		"afterwards   signup: 1 customer   mails: 1 sent",
	)
}

func TestAMessageSharesTheFateOfItsLocalTransaction(t *testing.T) {
	t.Parallel()
	bench.Play(t, func(ctx context.Context, b *bench.Bench) error {
		s, _, err := open(ctx, b)
		if err != nil {
			return err
		}
		if err := s.add(ctx, "Carl", "no such coupon"); !errors.Is(err, errCoupon) {
			t.Errorf("a coupon that does not exist: %v", err)
		}
		if err := s.add(ctx, "Dora", "TEA-10"); err != nil {
			t.Error(err)
		}
		if err := b.Settled(ctx); err != nil {
			return err
		}
		b.Want(ctx, t, "1 customer", "1 sent")
		return nil
	})
}

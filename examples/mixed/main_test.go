package main

import (
	"context"
	"errors"
	"testing"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/tm"
)

func TestItRunsAndDoesAllOfItOrNothing(t *testing.T) {
	t.Parallel()
	bench.Check(t, stage,
		"undecided   orders: 1   ledger: 0   money: 70, held 30   courier: 0   mail: 0",
		"committed   orders: 1   ledger: 2   money: 70, held 0   courier: 1   mail: 1",
		"rolled back:",
		"refused",
		"afterwards   orders: 1   ledger: 2   money: 70, held 0   courier: 1   mail: 1",
	)
}

// Whoever refuses, nothing stays.
func TestEachCanRefuse(t *testing.T) {
	t.Parallel()
	bench.Play(t, func(ctx context.Context, b *bench.Bench) error {
		s, courier, err := open(ctx, b)
		if err != nil {
			return err
		}
		if _, err := courier.Attach(b.Coordinator); err != nil {
			return err
		}
		for name, o := range map[string]order{
			"money":   {Customer: "anna", Address: "Mill Lane 1", Price: 101},
			"courier": {Customer: "anna", Address: "Far island", Price: 100},
		} {
			if err = s.place(ctx, o); !errors.Is(err, tm.ErrRolledBack) {
				t.Errorf("%s: %v", name, err)
			} else if _, err := b.Undone(ctx, err); err != nil {
				return err
			}
			b.Want(ctx, t, "0", "0", "100, held 0", "0", "0")
		}
		return nil
	})
}

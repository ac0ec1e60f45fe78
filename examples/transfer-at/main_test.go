package main

import (
	"context"
	"errors"
	"testing"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/tm"
)

func TestItRunsAndNobodyOverwritesWhatIsUndecided(t *testing.T) {
	t.Parallel()
	bench.Check(t, stage,
		"afterwards   north:  70, undo rows: 0   south:  30, undo rows: 0",
		"rolled back: the account of carl is closed",
		"afterwards   north:  70, undo rows: 0   south:  30, undo rows: 0",
		"undecided    north:  50, undo rows: 1   south:  50, undo rows: 1",
		"refused: public.account (owner)=(dora) is held by undecided global transaction",
		"afterwards   north:  50, undo rows: 0   south:  50, undo rows: 0",
	)
}

// The function alone: what it refuses it leaves as it was.
func TestATransferIsDoneWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	bench.Play(t, func(ctx context.Context, b *bench.Bench) error {
		c, err := found(ctx, b)
		if err != nil {
			return err
		}
		for _, to := range []string{"carl", "nobody"} {
			if err := c.transfer(ctx, "anna", to, 10); !errors.Is(err, tm.ErrRolledBack) {
				t.Errorf("to %s: %v", to, err)
			} else if _, err := b.Undone(ctx, err); err != nil {
				return err
			}
		}
		if err := c.transfer(ctx, "anna", "bert", 61); !errors.Is(err, tm.ErrRolledBack) {
			t.Errorf("more than there is: %v", err)
		}
		if err := c.transfer(ctx, "anna", "bert", 60); err != nil {
			t.Error(err)
		}
		b.Want(ctx, t, "40, undo rows: 0", "60, undo rows: 0")
		return nil
	})
}

package fence_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
)

// BenchmarkRun is what the fence adds to a local transaction of one statement.
func BenchmarkRun(b *testing.B) {
	d := newDatabase(b)
	ctx := context.Background()
	work := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO effect (call) VALUES ('x')")
		return err
	}
	fenced := func(c fence.Call, result []byte) error {
		_, err := fence.Run(ctx, d.own, c, func(ctx context.Context, tx pgx.Tx) ([]byte, error) { return result, work(ctx, tx) })
		return err
	}
	again := newCall()
	check(b, fenced(again, []byte("x")))
	for name, f := range map[string]func() error{
		"plain":       func() error { return pgx.BeginFunc(ctx, d.own, func(tx pgx.Tx) error { return work(ctx, tx) }) },
		"forward":     func() error { return fenced(newCall(), nil) },
		"with result": func() error { return fenced(newCall(), []byte("x")) },
		"repeated":    func() error { return fenced(again, nil) },
		"forward and rollback": func() error {
			c := newCall()
			if err := fenced(c, nil); err != nil {
				return err
			}
			return fenced(as(c, fence.Rollback), nil)
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

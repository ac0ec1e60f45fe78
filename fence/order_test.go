package fence_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
)

// ways are all that runs a call, each with its effect.
func ways(t *testing.T, d *database) map[string]func(fence.Call) (fence.Outcome, error) {
	t.Helper()
	pool, db := d.pool(), d.sql()
	ctx := limited(t)
	// mine is a transaction that the caller owns.
	mine := func(c fence.Call, opts pgx.TxOptions) (out fence.Outcome, err error) {
		err = pgx.BeginTxFunc(ctx, pool, opts, func(tx pgx.Tx) error {
			out, err = fence.Do(ctx, tx, c, func(ctx context.Context) ([]byte, error) { return effect(ctx, tx, c) })
			return err
		})
		return out, err
	}
	return map[string]func(fence.Call) (fence.Outcome, error){
		"Run": func(c fence.Call) (fence.Outcome, error) { return run(t, pool, c) },
		"Do":  func(c fence.Call) (fence.Outcome, error) { return mine(c, pgx.TxOptions{}) },
		"Do, repeatable read": func(c fence.Call) (fence.Outcome, error) {
			return mine(c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		},
		"Do, serializable": func(c fence.Call) (fence.Outcome, error) { return mine(c, pgx.TxOptions{IsoLevel: pgx.Serializable}) },
		"Do in a savepoint": func(c fence.Call) (out fence.Outcome, err error) {
			err = pgx.BeginFunc(ctx, pool, func(outer pgx.Tx) error {
				return pgx.BeginFunc(ctx, outer, func(tx pgx.Tx) error {
					out, err = fence.Do(ctx, tx, c, func(ctx context.Context) ([]byte, error) { return effect(ctx, tx, c) })
					return err
				})
			})
			return out, err
		},
		"RunSQL": func(c fence.Call) (fence.Outcome, error) {
			return fence.RunSQL(ctx, db, c, func(ctx context.Context, tx *sql.Tx) ([]byte, error) {
				_, err := tx.ExecContext(ctx, "INSERT INTO effect (call) VALUES ($1)", c.Key())
				return result(), err
			})
		},
		"DoSQL": func(c fence.Call) (fence.Outcome, error) {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return fence.Outcome{}, err
			}
			defer func() { _ = tx.Rollback() }()
			out, err := fence.DoSQL(ctx, tx, c, func(ctx context.Context) ([]byte, error) {
				_, err := tx.ExecContext(ctx, "INSERT INTO effect (call) VALUES ($1)", c.Key())
				return result(), err
			})
			if err != nil {
				return out, err
			}
			return out, tx.Commit()
		},
	}
}

// What each action comes to after each other one, told apart by letters: f forward,
// c commit, r rollback; upper case where it runs.
var orders = []struct {
	calls string
	want  []error // of the last call; nil: no error
	runs  string  // which of them run
}{
	{"f", nil, "F"},
	{"c", []error{fence.ErrNoForward}, "-"},
	{"r", nil, "e"},
	{"ff", nil, "Fd"},
	{"fc", nil, "FC"},
	{"fr", nil, "FR"},
	{"cf", nil, "-F"},
	{"cc", []error{fence.ErrNoForward}, "--"},
	{"cr", nil, "-e"},
	{"rf", []error{fence.ErrLate}, "e-"},
	{"rc", []error{fence.ErrContradicted}, "e-"},
	{"rr", nil, "ee"},
	{"ffc", nil, "FdC"},
	{"ffr", nil, "FdR"},
	{"fcc", nil, "FCd"},
	{"fcf", nil, "FCd"},
	{"fcr", []error{fence.ErrContradicted}, "FC-"},
	{"frr", nil, "FRd"},
	{"frf", []error{fence.ErrLate}, "FR-"},
	{"frc", []error{fence.ErrContradicted}, "FR-"},
	{"rrf", []error{fence.ErrLate}, "ee-"},
	{"rfr", nil, "e-e"},
	{"rff", []error{fence.ErrLate}, "e--"},
	{"rcf", []error{fence.ErrLate}, "e--"},
	{"cfc", nil, "-FC"},
	{"cfr", nil, "-FR"},
	{"crf", []error{fence.ErrLate}, "-e-"},
	{"fcrcf", nil, "FC-dd"},
	{"frcrf", []error{fence.ErrLate}, "FR-d-"},
	{"frfrfr", nil, "FR-d-d"},
	{"ffccff", nil, "FdCddd"},
	{"rfrcrf", []error{fence.ErrLate}, "e-e-e-"},
}

func TestEveryOrderOfCalls(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	actions := map[rune]fence.Action{'f': fence.Forward, 'c': fence.Commit, 'r': fence.Rollback}
	for name, way := range ways(t, d) {
		for _, o := range orders {
			c := newCall()
			results := map[fence.Action][]byte{}
			var err error
			var got strings.Builder
			for i, letter := range o.calls {
				c.Attempt = uint32(i + 1)
				c.Action = actions[letter]
				var out fence.Outcome
				out, err = way(c)
				switch {
				case err != nil:
					got.WriteByte('-')
				case out.Empty:
					got.WriteByte('e')
				case out.Repeated:
					got.WriteByte('d')
					if !bytes.Equal(out.Result, results[c.Action]) {
						t.Errorf("%s: %s: call %d is answered with %q, the first with %q", name, o.calls, i, out.Result, results[c.Action])
					}
				default:
					got.WriteString(strings.ToUpper(string(letter)))
					results[c.Action] = out.Result
				}
			}
			if got.String() != o.runs {
				t.Errorf("%s: %s: %s, want %s", name, o.calls, got.String(), o.runs)
			}
			for _, want := range o.want {
				if !errors.Is(err, want) {
					t.Errorf("%s: %s: %v, want %v", name, o.calls, err, want)
				}
			}
			if o.want == nil && err != nil {
				t.Errorf("%s: %s: %v", name, o.calls, err)
			}
			d.wantEffects(c, strings.Count(o.runs, "F"), strings.Count(o.runs, "C"), strings.Count(o.runs, "R"))
		}
	}
}

func TestBranchesAndTransactionsAreTheirOwn(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	pool := d.pool()
	a := newCall()
	b := newCall()
	b.XID = a.XID
	other := newCall()
	other.Branch = a.Branch
	if out, err := run(t, pool, as(a, fence.Rollback)); err != nil || !out.Empty {
		t.Fatal(out, err)
	}
	for _, c := range []fence.Call{b, other} {
		if out, err := run(t, pool, c); err != nil || out.Repeated {
			t.Fatal(out, err)
		}
		d.wantEffects(c, 1, 0, 0)
	}
}

// Two calls in one local transaction see each other.
func TestSeveralCallsInOneTransaction(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	a, b, never := newCall(), newCall(), newCall()
	check(t, pgx.BeginFunc(limited(t), d.pool(), func(tx pgx.Tx) error {
		for _, c := range []fence.Call{a, b, a, as(a, fence.Rollback)} {
			if _, err := fence.Do(limited(t), tx, c, func(ctx context.Context) ([]byte, error) { return effect(ctx, tx, c) }); err != nil {
				return err
			}
		}
		_, err := fence.Do(limited(t), tx, a, func(context.Context) ([]byte, error) { panic("late") })
		wantError(t, err, fence.ErrLate)
		_, err = fence.Do(limited(t), tx, as(never, fence.Commit), func(context.Context) ([]byte, error) { panic("nothing to commit") })
		wantError(t, err, fence.ErrNoForward)
		return nil // these are no failures of the transaction, and leave nothing in it
	}))
	if out, err := run(t, d.own, never); err != nil || out.Repeated {
		t.Fatal(out, err)
	}
	d.wantEffects(a, 1, 0, 1)
	d.wantEffects(b, 1, 0, 0)
}

func TestResults(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	pool := d.pool()
	for _, tt := range []struct {
		name   string
		result []byte
		again  []byte
	}{
		{"nil", nil, nil},
		{"empty", []byte{}, nil},
		{"zero byte", []byte{0}, []byte{0}},
		{"any bytes", []byte("\x00\xff\\x'\n"), []byte("\x00\xff\\x'\n")},
		{"the largest", bytes.Repeat([]byte{7}, fence.MaxResult), bytes.Repeat([]byte{7}, fence.MaxResult)},
	} {
		for _, action := range []fence.Action{fence.Forward, fence.Commit, fence.Rollback} {
			c := newCall()
			give := func(context.Context, pgx.Tx) ([]byte, error) { return tt.result, nil }
			if action != fence.Forward {
				_, err := fence.Run(limited(t), pool, c, func(context.Context, pgx.Tx) ([]byte, error) { return []byte("of forward"), nil })
				check(t, err)
			}
			first, err := fence.Run(limited(t), pool, as(c, action), give)
			check(t, err)
			again, err := fence.Run(limited(t), pool, as(c, action), give)
			check(t, err)
			if !bytes.Equal(first.Result, tt.again) || (tt.again == nil) != (first.Result == nil) || first.Repeated {
				t.Errorf("%s of %s: first %v", tt.name, action, first.Repeated)
			}
			if !bytes.Equal(again.Result, tt.again) || (tt.again == nil) != (again.Result == nil) || !again.Repeated {
				t.Errorf("%s of %s: again %.20q %v", tt.name, action, again.Result, again.Repeated)
			}
		}
	}
	c := newCall()
	_, err := fence.Run(limited(t), pool, c, func(context.Context, pgx.Tx) ([]byte, error) { return make([]byte, fence.MaxResult+1), nil })
	wantError(t, err, fence.ErrResultTooLarge)
	if out, err := run(t, pool, c); err != nil || out.Repeated {
		t.Fatal(out, err)
	}
}

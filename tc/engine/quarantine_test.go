package engine_test

import (
	"errors"
	"testing"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/xid"
)

func TestAWitnessBeyondTheStoreIsNoticed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		w      engine.Witness
		beyond bool
	}{
		{"another store", engine.Witness{Store: xid.StoreID{1}, Incarnation: 99, Position: 99}, false},
		{"before the end of an incarnation", engine.Witness{Store: testStore, Incarnation: 1, Position: 10}, false},
		{"after the end of an incarnation", engine.Witness{Store: testStore, Incarnation: 1, Position: 11}, true},
		{"the present position", engine.Witness{Store: testStore, Incarnation: 2, Position: 10}, false},
		{"after the present position", engine.Witness{Store: testStore, Incarnation: 2, Position: 1000}, true},
		{"a later incarnation", engine.Witness{Store: testStore, Incarnation: 3}, true},
		{"an incarnation that never was", engine.Witness{Store: testStore, Incarnation: 0, Position: 1}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			st := newMemory()
			e, _ := run(t, st)
			err := e.CheckWitness(tc.w)
			if errors.Is(err, engine.ErrQuarantined) != tc.beyond || (err == nil) == tc.beyond {
				t.Fatalf("got %v", err)
			}
			if q := st.Meta().QuarantineBelow; (q == 2) != tc.beyond {
				t.Fatalf("quarantine below %d", q)
			}
		})
	}
}

func TestQuarantineHoldsEarlierIncarnationsUntilAdopted(t *testing.T) {
	t.Parallel()
	st := newMemory()
	e, _ := run(t, st)
	old := begin(t, e)
	register(t, e, old, 1)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	st.ends[2] = st.position
	st.meta.Incarnation = 3
	again, _ := run(t, st)
	w := engine.Witness{Store: testStore, Incarnation: 2, Position: st.position + 5}
	if err := again.CheckWitness(w); !errors.Is(err, engine.ErrQuarantined) {
		t.Fatalf("got %v", err)
	}
	if r := register(t, again, old, 2); r.Err == nil || r.Err.Kind != core.ErrQuarantined {
		t.Fatalf("an old transaction: %+v", r)
	}
	if r := register(t, again, begin(t, again), 1); r.Err != nil {
		t.Fatalf("a new transaction: %v", r.Err)
	}
	if err := again.Adopt("me"); err != nil {
		t.Fatal(err)
	}
	if r := register(t, again, old, 2); r.Err != nil {
		t.Fatalf("an adopted transaction: %v", r.Err)
	}
	// The operator knew of this witness, and not of a later one.
	if err := again.CheckWitness(w); err != nil {
		t.Fatalf("the witness again: %v", err)
	}
	w.Position++
	if err := again.CheckWitness(w); !errors.Is(err, engine.ErrQuarantined) {
		t.Fatalf("a later witness: %v", err)
	}
}

package saga

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// Submit begins a transaction and hands the saga over to the coordinator. When it
// returns without an error the saga will be carried out, whatever becomes of this
// process. The XID is where tm.Manager.Wait and Results go on.
//
// Errors: what Validate says, before anything is sent; those of tm.Manager.Begin and
// Submit. With tm.ErrOutcomeUnknown the answer was lost, the XID is that of the saga,
// and SubmitAs is how to go on. tm.WithName is the saga's name by default, and
// tm.WithTimeout bounds only the time until it is submitted.
func (d *Definition) Submit(ctx context.Context, m *tm.Manager, opts ...tm.Option) (xid.ID, error) {
	if err := d.Validate(); err != nil {
		return xid.ID{}, err
	}
	t, err := m.Begin(ctx, append([]tm.Option{tm.WithName(d.name)}, opts...)...)
	if err != nil {
		return xid.ID{}, err
	}
	return t.XID, d.SubmitAs(ctx, m, t)
}

// SubmitAs submits the saga under a transaction that was begun, or again under one whose
// answer was lost: tm.Tx{XID: id}. The branches' ids follow from the XID and the names
// of the steps, so the same again changes nothing. From then on nothing can join the
// transaction; for a saga that is a part of one there is Enlist.
func (d *Definition) SubmitAs(ctx context.Context, m *tm.Manager, t tm.Tx) error {
	r, err := d.Request(t.XID)
	if err != nil {
		return err
	}
	return m.Submit(ctx, t, r)
}

// ErrNoTransaction is Enlist with a context that carries no XID.
var ErrNoTransaction = errors.New("the context belongs to no transaction; call it inside of tm.Manager.Do")

// Enlist adds the saga to the transaction of ctx. Its steps are called once the commit is
// asked for, as tm.Manager.Do does when its function returns nil, and the transaction
// commits only if they succeed. Where one fails for good, or another branch votes no, all
// is rolled back, the compensations of steps that were called among it: Do then returns an
// error that Is tm.ErrRolledBack. Where the function fails no step is called at all.
// Whatever else is part of the transaction may come before Enlist or after it. The same
// saga may be enlisted several times, and each time is another one.
//
// The steps have to be through before the deadline of the transaction (tm.WithTimeout;
// 60 s unless the coordinator says otherwise), which holds instead of that of the saga;
// meanwhile the other branches keep what they hold. A saga with a pivot is refused: its
// pivot could not be undone where another branch votes no. Submit it by itself.
//
// Errors: ErrNoTransaction; what Validate says, *Error for a pivot; those of
// tm.Manager.Register. After these the transaction should be rolled back: some steps
// may be registered.
func (d *Definition) Enlist(ctx context.Context, m *tm.Manager) error {
	id, ok := xid.FromContext(ctx)
	if !ok {
		return &Error{Saga: d.name, Text: ErrNoTransaction.Error(), Err: ErrNoTransaction}
	}
	g, err := d.plan()
	if err != nil {
		return err
	}
	if g.pivot >= 0 {
		return d.wrong(d.steps[g.pivot].name, "it is a pivot, which can't be undone where another branch of the transaction votes no; submit the saga by itself")
	}
	for _, b := range g.branches(func(int) xid.BranchID { return xid.NewBranchID() }) {
		if err := m.Register(ctx, id, b); err != nil {
			return err
		}
	}
	return nil
}

// Request is the saga as it is sent to the coordinator, for those who send it another
// way.
func (d *Definition) Request(id xid.ID) (*pb.SubmitRequest, error) {
	g, err := d.plan()
	if err != nil {
		return nil, err
	}
	return g.request(id), nil
}

// Run is Submit, and waits until the saga is decided: nil where it is committed, an
// error that Is tm.ErrRolledBack where it was undone or will be. With
// tm.WithWaitSettled it also waits for the steps after the pivot. Where the wait ends
// first, with ctx or because the coordinator is out of reach, the error Is
// tm.ErrOutcomeUnknown and the saga goes on.
func (d *Definition) Run(ctx context.Context, m *tm.Manager, opts ...tm.Option) (xid.ID, error) {
	id, err := d.Submit(ctx, m, opts...)
	if err != nil {
		return id, err
	}
	return id, m.Wait(ctx, id, opts...)
}

// Results gives what the steps answered that are through, by their names. Of branches of
// the same name, as of a saga that was enlisted twice, it gives one.
func Results(ctx context.Context, m *tm.Manager, id xid.ID) (map[string][]byte, error) {
	t, err := m.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("results of a saga: %w", err)
	}
	out := make(map[string][]byte)
	for _, b := range t.GetBranches() {
		if len(b.GetResult()) > 0 {
			out[b.GetName()] = b.GetResult()
		}
	}
	return out, nil
}

package tc_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/xid"
)

// begun begins transactions, one older than the next, and makes them durable.
func begun(t *testing.T, c *client.Client, n int) (ids []string) {
	t.Helper()
	for range n {
		id := must[*pb.BeginResponse](t)(c.Begin(limited(t), &pb.BeginRequest{})).GetXid()
		enlist(t, c, id)
		ids = append(ids, id)
	}
	slices.Sort(ids) // within a millisecond, too
	return ids
}

func enlist(t *testing.T, c *client.Client, id string) {
	t.Helper()
	must[*pb.RegisterBranchResponse](t)(c.RegisterBranch(limited(t), &pb.RegisterBranchRequest{
		Xid: id, BranchId: xid.NewBranchID().String(), ResourceId: newManager(1).resource, Mode: pb.Mode_MODE_AT,
	}))
}

// waits waits on behalf of a transaction for another.
func waits(ctx context.Context, c *client.Client, waiter, holder string) error {
	_, err := c.WaitFor(ctx, &pb.WaitForRequest{Xid: holder, WaiterXid: waiter, Timeout: durationpb.New(patience)})
	return err
}

// wantVictim checks the error of a wait whose transaction was rolled back.
func wantVictim(t *testing.T, c *client.Client, err error, cycle ...string) {
	t.Helper()
	e, ok := client.AsError(err)
	if !ok || e.Reason != pb.ErrorReason_ERROR_REASON_ROLLED_BACK || e.Metadata["rollback_reason"] != "ROLLBACK_REASON_DEADLOCK" {
		t.Fatalf("got %v", err)
	}
	for _, id := range cycle {
		if !strings.Contains(e.Metadata["cause"], id) || !strings.Contains(e.Message, id) {
			t.Errorf("the error does not name %s: %v", id, e)
		}
	}
	tx := must[*pb.GetResponse](t)(c.Get(limited(t), &pb.GetRequest{Xid: e.XID.String()})).GetTransaction()
	if tx.GetOutcome() != pb.Outcome_OUTCOME_ROLLED_BACK || tx.GetRollbackReason() != pb.RollbackReason_ROLLBACK_REASON_DEADLOCK {
		t.Errorf("the victim is %v", tx)
	}
}

// TestACycleOverAllShardsIsBrokenByItsYoungest: the transactions lie in
// different shards, and their waits come over different sessions.
func TestACycleOverAllShardsIsBrokenByItsYoungest(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), func(c *tc.Config) { c.Engine.Shards = 5 })
	clients := []*client.Client{r.dial(t), r.dial(t)}
	for _, n := range []int{2, 3, 7} {
		ids := begun(t, clients[0], n)
		type end struct {
			i   int
			err error
		}
		ends := make(chan end, n)
		for i := range ids {
			go func() { ends <- end{i, waits(limited(t), clients[i%2], ids[i], ids[(i+1)%n])} }()
		}
		// The victim, and whoever waited for it: it is decided.
		got := map[int]error{}
		for range 2 {
			e := <-ends
			got[e.i] = e.err
		}
		wantVictim(t, clients[0], got[n-1], ids...)
		if err, ok := got[n-2]; !ok || err != nil {
			t.Errorf("%v ended, and not the wait for the victim: %v", got, err)
		}
		for _, id := range ids[:n-1] {
			must[*pb.RollbackResponse](t)(clients[0].Rollback(limited(t), &pb.RollbackRequest{Xid: id}))
		}
		for range n - 2 {
			<-ends
		}
	}
}

// TestAChildThatWaitsForItsParentIsADeadlock: also when the coordinator has
// restarted in between.
func TestAChildThatWaitsForItsParentIsADeadlock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, restart := range []bool{false, true} {
		r := start(t, dir)
		c := r.dial(t)
		parent := begun(t, c, 1)[0]
		child := must[*pb.BeginResponse](t)(c.Begin(limited(t), &pb.BeginRequest{ParentXid: parent})).GetXid()
		enlist(t, c, child)
		if restart {
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			r = start(t, dir)
			c = r.dial(t)
		}
		wantVictim(t, c, waits(limited(t), c, child, parent), child, parent)
		// The parent may try another child.
		child = must[*pb.BeginResponse](t)(c.Begin(limited(t), &pb.BeginRequest{ParentXid: parent})).GetXid()
		must[*pb.RollbackResponse](t)(c.Rollback(limited(t), &pb.RollbackRequest{Xid: child}))
		must[*pb.RollbackResponse](t)(c.Rollback(limited(t), &pb.RollbackRequest{Xid: parent}))
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAWaitThatWasGivenUpIsInNoCycle: the context of the wait ended, which the
// coordinator is told before anything later on the same session.
func TestAWaitThatWasGivenUpIsInNoCycle(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	c := r.dial(t)
	ids := begun(t, c, 2)
	for range 20 {
		ctx, cancel := context.WithTimeout(limited(t), time.Millisecond)
		_ = waits(ctx, c, ids[0], ids[1])
		cancel()
		w, err := c.WaitFor(limited(t), &pb.WaitForRequest{Xid: ids[0], WaiterXid: ids[1], Timeout: durationpb.New(time.Millisecond)})
		if err != nil || w.GetOutcome() != pb.Outcome_OUTCOME_UNDECIDED {
			t.Fatalf("got %v, %v", w, err)
		}
	}
}

func TestADecidedWaiterIsToldAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	c := r.dial(t)
	ids := begun(t, c, 2)
	must[*pb.RollbackResponse](t)(c.Rollback(limited(t), &pb.RollbackRequest{Xid: ids[0], Cause: "the customer left"}))
	err := waits(limited(t), c, ids[0], ids[1])
	if e, ok := client.AsError(err); !ok || e.Reason != pb.ErrorReason_ERROR_REASON_ROLLED_BACK || e.XID.String() != ids[0] || e.Metadata["cause"] != "the customer left" {
		t.Errorf("got %v", err)
	}
	unknown := xid.New(xid.Parts{Begin: time.Now(), Incarnation: 1, Store: xid.StoreID{9}}).String()
	err = waits(limited(t), c, unknown, ids[1])
	if client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_FOREIGN_STORE {
		t.Errorf("got %v", err)
	}
}

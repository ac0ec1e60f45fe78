package rm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

func TestTwoServicesOnOneDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := open(t, w.tc, w.dsn)
	equal(t, "resource", second.Resource(), w.pool.Resource())
	before := w.contents()
	for range 10 {
		ctx, x := w.begin()
		for _, p := range []*rm.Pool{w.pool, second, w.pool} {
			_, err := p.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = 1")
			check(t, err)
			_, err = p.Exec(ctx, "INSERT INTO entry SELECT 1, count(*), 'x' FROM entry")
			check(t, err)
		}
		equal(t, "branches", len(w.branches(x)), 6)
		w.rollback(x)
		equal(t, "contents", w.contents(), before)
	}
	equal(t, "intents", w.intents(), 0)
}

func TestManyTransactionsAreSettled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var wg sync.WaitGroup
	var committed atomic.Int64
	for n := range 16 {
		wg.Go(func() {
			for i := range 20 {
				ctx, x := w.begin()
				err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
					_, err := tx.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = $1", n+1)
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
				if i%4 == 3 {
					w.rollback(x)
				} else if w.commit(x) == pb.Outcome_OUTCOME_COMMITTED {
					committed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	equal(t, "committed", committed.Load(), 16*15)
	equal(t, "sum", value[int](w, "SELECT sum(balance)::int FROM account"), 100*100+16*15)
	equal(t, "intents", w.intents(), 0)
}

// scripted is a pool with a coordinator that does what the test says.
func scripted(t *testing.T, opts ...rm.Option) (*faketc.Server, *faketc.Session, *world) {
	t.Helper()
	s := faketc.Start(t)
	w := &world{t: t, dsn: database(t)}
	w.tc = dial(t, s.Addr())
	w.pool = open(t, w.tc, w.dsn, opts...)
	w.look = connect(t, w.dsn)
	return s, s.NextSession(), w
}

func TestOnlyAnExplicitDecisionSettles(t *testing.T) {
	t.Parallel()
	s, session, w := scripted(t)
	x := freshXID(s)
	results := make(chan *pb.SettleItemResult, 16)
	branches := make(chan string, 16)
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if r := f.GetRegisterBranch(); r != nil {
			branches <- r.GetBranchId()
		}
		for _, i := range f.GetSettleResult().GetItems() {
			results <- i
		}
		return false
	})
	_, err := w.pool.Exec(xid.NewContext(limited(t), x), "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	branch := <-branches
	before := w.contents()
	held := w.intents()
	item := func(o pb.Outcome) *pb.SettleItem {
		return &pb.SettleItem{Xid: x.String(), Outcome: o, Branches: []*pb.SettleBranch{{BranchId: branch, Vote: pb.Vote_VOTE_YES}}}
	}
	send := func(resource string, i *pb.SettleItem) *pb.SettleItemResult {
		t.Helper()
		session.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_Settle{Settle: &pb.Settle{ResourceId: resource, Items: []*pb.SettleItem{i}}}})
		return receive(t, results)
	}
	resource := w.pool.Resource().String()
	for _, o := range []pb.Outcome{pb.Outcome_OUTCOME_UNSPECIFIED, pb.Outcome_OUTCOME_UNDECIDED, 99} {
		if r := send(resource, item(o)); r.GetDone() || r.GetError() == "" {
			t.Errorf("outcome %v: %v", o, r)
		}
	}
	bad := item(pb.Outcome_OUTCOME_ROLLED_BACK)
	bad.Branches[0].BranchId = "?"
	if r := send(resource, bad); r.GetDone() {
		t.Errorf("malformed branch: %v", r)
	}
	// A rollback that does not know the branch contradicts its fence.
	bad.Branches[0].BranchId = xid.NewBranchID().String()
	if r := send(resource, bad); r.GetDone() || !r.GetNeedsAttention() {
		t.Errorf("another branch: %v", r)
	}
	equal(t, "contents", w.contents(), before)
	if w.intents() < held {
		t.Fatal("something was settled")
	}
	if r := send(resource, item(pb.Outcome_OUTCOME_ROLLED_BACK)); !r.GetDone() {
		t.Fatalf("rollback: %v", r)
	}
	equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 100)
	// Again: it is settled already. The other way round: an alarm.
	if r := send(resource, item(pb.Outcome_OUTCOME_ROLLED_BACK)); !r.GetDone() {
		t.Errorf("rollback again: %v", r)
	}
	if r := send(resource, item(pb.Outcome_OUTCOME_COMMITTED)); r.GetDone() || !r.GetNeedsAttention() {
		t.Errorf("commit of what is rolled back: %v", r)
	}
}

func receive[T any](tb testing.TB, c <-chan T) (v T) {
	tb.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		tb.Fatal("nothing came")
	}
	return v
}

// freshXID is an XID young enough to join.
func freshXID(s *faketc.Server) xid.ID {
	p := s.NewXID().Parts()
	p.Begin = time.Now()
	return xid.New(p)
}

func TestVotesAreLookedUpInTheDatabase(t *testing.T) {
	t.Parallel()
	s, session, w := scripted(t)
	answers := make(chan *pb.AskItemResult, 16)
	branches := make(chan string, 16)
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if r := f.GetRegisterBranch(); r != nil {
			branches <- r.GetBranchId()
		}
		for _, i := range f.GetAskVotesResult().GetItems() {
			answers <- i
		}
		return false
	})
	ask := func(x xid.ID, branch string) pb.Vote {
		t.Helper()
		session.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_AskVotes{AskVotes: &pb.AskVotes{
			ResourceId: w.pool.Resource().String(), Items: []*pb.AskItem{{Xid: x.String(), BranchId: branch}},
		}}})
		return receive(t, answers).GetVote()
	}
	x := freshXID(s)
	ctx := xid.NewContext(limited(t), x)
	_, err := w.pool.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	equal(t, "committed", ask(x, <-branches), pb.Vote_VOTE_YES)

	tx, err := w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 2")
	check(t, err)
	branch := <-branches
	equal(t, "open", ask(x, branch), pb.Vote_VOTE_OPEN)
	check(t, tx.Rollback(ctx))
	equal(t, "rolled back", ask(x, branch), pb.Vote_VOTE_NO)

	// No is as final as yes: the branch can't write any more.
	tx, err = w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, "SELECT 1")
	check(t, err)
	equal(t, "nothing written yet", ask(x, <-branches), pb.Vote_VOTE_NO)
	_, err = tx.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 3")
	wantError(t, err, rm.ErrDecided)
	// Passed on over gRPC as it is, it does not look like a step that failed for good.
	if e, ok := client.AsError(status.Convert(err).Err()); !ok || e.Code != codes.Aborted || e.Reason != pb.ErrorReason_ERROR_REASON_WRONG_STATE {
		t.Errorf("over gRPC it is %v", status.Convert(err).Proto())
	}
	check(t, tx.Rollback(ctx))
}

// TestJanitor: leftovers are settled only by a decision that is on record.
func TestTheJanitorDropsOnlyFencesThatNothingNeeds(t *testing.T) {
	t.Parallel()
	s, _, w := scripted(t, rm.WithJanitorInterval(5*time.Millisecond))
	live := freshXID(s).String()
	exec(t, w.look, `INSERT INTO handfast.fence (xid, branch, state, at) VALUES
		('old settled', gen_random_uuid(), 'C', now() - interval '3 days'), ('old tombstone', gen_random_uuid(), 'T', now() - interval '3 days'),
		('young', gen_random_uuid(), 'R', now() - interval '1 day'), ($1, gen_random_uuid(), 'L', now() - interval '3 days')`, live)
	fences := func() (names string) {
		check(t, w.look.QueryRow(limited(t), "SELECT string_agg(xid, ' ' ORDER BY xid) FROM handfast.fence").Scan(&names))
		return names
	}
	for ctx := limited(t); fences() != live+" young"; {
		check(t, ctx.Err())
	}
}

func TestJanitor(t *testing.T) {
	t.Parallel()
	opts := []rm.Option{rm.WithJanitorInterval(5 * time.Millisecond), rm.WithJanitorAge(0)}
	s, _, w := scripted(t, opts...)
	c := answering(s)
	x := freshXID(s)
	c.answer.Store(transaction(pb.Outcome_OUTCOME_UNDECIDED, x))
	_, err := w.pool.Exec(xid.NewContext(limited(t), x), "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	branch := <-c.branches
	held := w.intents()
	mine := &pb.Branch{BranchId: branch, ResourceId: w.pool.Resource().String(), Vote: pb.Vote_VOTE_YES}
	elsewhere := &pb.Branch{BranchId: branch, ResourceId: xid.ResourceID{1}.String(), Vote: pb.Vote_VOTE_YES}

	for name, a := range map[string]*pb.ServerFrame{
		"undecided":      transaction(pb.Outcome_OUTCOME_UNDECIDED, x, mine),
		"nonsense":       transaction(77, x, mine),
		"unspecified":    transaction(pb.Outcome_OUTCOME_UNSPECIFIED, x, mine),
		"other XID":      transaction(pb.Outcome_OUTCOME_ROLLED_BACK, freshXID(s), mine),
		"other database": transaction(pb.Outcome_OUTCOME_ROLLED_BACK, x, elsewhere),
		"unknown":        refusal(t, pb.ErrorReason_ERROR_REASON_UNKNOWN_XID),
		"expired":        refusal(t, pb.ErrorReason_ERROR_REASON_EXPIRED_XID),
		"foreign":        refusal(t, pb.ErrorReason_ERROR_REASON_FOREIGN_STORE),
		"quarantined":    refusal(t, pb.ErrorReason_ERROR_REASON_QUARANTINED),
	} {
		c.answer.Store(a)
		for range 3 { // the third question comes after the first answer was acted on
			select {
			case <-c.asked: // one of before
			default:
			}
			receive(t, c.asked)
		}
		if got := w.intents(); got != held {
			t.Fatalf("%s: %d intents, want %d", name, got, held)
		}
	}
	equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 0)
	c.answer.Store(transaction(pb.Outcome_OUTCOME_ROLLED_BACK, x, mine, elsewhere))
	until(t, func() bool { return w.intents() == 0 })
	equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 100)
}

// until waits for what happens outside of this process.
func until(tb testing.TB, f func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatal("it did not happen in time")
		}
	}
}

func TestAFullPoolDoesNotKeepPhaseTwoWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	small, err := pgxpool.New(limited(t), w.dsn+"&pool_max_conns=1")
	check(t, err)
	t.Cleanup(small.Close)
	w.pool.Close()
	w.pool, err = rm.New(limited(t), w.tc, small, rm.WithLogger(quiet()))
	check(t, err)
	t.Cleanup(w.pool.Close)
	ctx, x := w.begin()
	_, err = w.pool.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	c, err := w.pool.Acquire(ctx)
	check(t, err)
	w.rollback(x)
	equal(t, "intents", w.intents(), 0)
	c.Release()
}

func TestSettlingGoesOnAfterItsConnectionsBroke(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy, dsn := through(t, w.dsn, 0)
	w.pool.Close()
	w.pool = open(t, w.tc, dsn)
	for range 3 {
		ctx, x := w.begin()
		_, err := w.pool.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
		check(t, err)
		proxy.cutAll()
		w.rollback(x)
		w.pool.Reset()
		equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 100)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	c := dial(t, faketc.Start(t).Addr())
	bare := cluster.DSN(t)
	_, err := rm.Open(limited(t), c, bare)
	wantError(t, err, undolog.ErrNotInstalled)
	if !strings.Contains(err.Error(), "handfast pg install") {
		t.Errorf("no advice in %q", err)
	}
	_, err = rm.Open(limited(t), c, "postgres://127.0.0.1:1/x?connect_timeout=2")
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	_, err = rm.Open(limited(t), c, "postgres://%")
	if err == nil {
		t.Error("a malformed DSN is accepted")
	}
	for n, o := range []rm.Option{
		rm.WithLogger(nil), rm.WithLockTimeout(-1), rm.WithJanitorInterval(0), rm.WithJanitorAge(-1),
		rm.WithSettleConnections(0), rm.WithSettleConnections(17), rm.WithName(""), rm.WithName(strings.Repeat("x", 10_000)),
		rm.WithRegisterTimeout(0),
	} {
		if _, err := rm.Open(limited(t), c, bare, o); err == nil || errors.Is(err, undolog.ErrNotInstalled) {
			t.Errorf("option %d: got %v", n, err)
		}
	}
	if _, err := rm.New(limited(t), nil, nil); err == nil {
		t.Error("nothing is accepted")
	}
}

func TestCloseIsBoundedAndFinal(t *testing.T) {
	t.Parallel()
	s, _, w := scripted(t)
	x := freshXID(s)
	ctx := xid.NewContext(limited(t), x)
	_, err := w.pool.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	w.pool.Close()
	w.pool.Close()
	_, err = w.pool.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 2")
	if err == nil {
		t.Error("a closed pool works")
	}
}

func refusal(tb testing.TB, r pb.ErrorReason) *pb.ServerFrame {
	tb.Helper()
	return errorFrame(tb, fmt.Sprintf("it is %s", r), r)
}

func TestTheCoordinatorMayBeAway(t *testing.T) {
	t.Parallel()
	s, _, w := scripted(t, rm.WithRegisterTimeout(50*time.Millisecond))
	s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool { return f.GetRegisterBranch() != nil })
	before := w.contents()
	_, err := w.pool.Exec(xid.NewContext(limited(t), freshXID(s)), "UPDATE account SET balance = 0 WHERE id = 1")
	var r *rm.RegisterError
	if !errors.As(err, &r) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	equal(t, "contents", w.contents(), before)
	equal(t, "intents", w.intents(), 0)
}

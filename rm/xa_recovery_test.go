package rm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/faketc"
	"github.com/handfast/handfast/internal/pgserver"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// ownServer runs a server for one test.
func ownServer(t *testing.T) *pgserver.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := pgserver.Start(ctx, pgserver.Options{})
	check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		check(t, s.Stop(ctx))
	})
	return s
}

// restart crashes the server and runs it again.
func restart(t *testing.T, s *pgserver.Server) {
	t.Helper()
	s.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(t, s.Restart(ctx))
}

// The setting is missing, then too small; and what is prepared outlives a crash
// of the server.
func TestXASettingsAndCrashesOfTheServer(t *testing.T) {
	t.Parallel()
	server := ownServer(t)
	dsn, err := server.CreateDatabase(limited(t), "bank")
	check(t, err)
	prepareDatabase(t, dsn)
	w := &world{t: t, dsn: dsn, tc: dial(t, coordinator(t))}
	reconnect := func() {
		t.Helper()
		w.pool.Reset()
		w.look = connect(t, dsn)
	}

	_, err = rm.Open(limited(t), w.tc, dsn, rm.WithLogger(quiet()), rm.WithMode(rm.XA))
	wantError(t, err, rm.ErrXADisabled)
	for _, part := range []string{"max_prepared_transactions is 0", "200", "restart"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	var log lockedBuffer
	w.pool = open(t, w.tc, dsn, rm.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	ctx, x := w.begin()
	_, err = w.pool.BeginXA(ctx, pgx.TxOptions{})
	wantError(t, err, rm.ErrXADisabled)
	_, err = w.pool.Exec(ctx, take, 1) // AT goes on
	check(t, err)
	w.rollback(x)

	exec(t, connect(t, dsn), "ALTER SYSTEM SET max_prepared_transactions = 1")
	restart(t, server)
	reconnect()
	xa := func(id int) (x xid.ID, err error) {
		t.Helper()
		ctx, x := w.begin()
		_, err = w.pool.Exec(rm.ContextWithMode(ctx, rm.XA), take, id)
		return x, err
	}
	held, err := xa(1) // the pool has seen that the setting was changed
	check(t, err)
	if !strings.Contains(log.String(), "few places") {
		t.Errorf("no warning in %q", log.String())
	}
	_, err = xa(2)
	wantError(t, err, rm.ErrXASlots)
	if !strings.Contains(err.Error(), "max_prepared_transactions") {
		t.Errorf("%q does not name the setting", err)
	}
	equal(t, "prepared", w.prepared(), 1)
	for _, commit := range []bool{true, false} {
		before := w.balance(1)
		restart(t, server)
		reconnect()
		equal(t, "prepared after the crash", w.prepared(), 1)
		if commit {
			equal(t, "outcome", w.commit(held), pb.Outcome_OUTCOME_COMMITTED)
			equal(t, "balance", w.balance(1), before-1)
		} else {
			w.rollback(held)
			equal(t, "balance", w.balance(1), before)
		}
		equal(t, "prepared", w.prepared(), 0)
		held, err = xa(1)
		check(t, err)
	}
	// The crash comes between the decision and its delivery.
	server.Kill()
	a, err := w.tc.Commit(limited(t), &pb.CommitRequest{Xid: held.String()})
	check(t, err)
	equal(t, "outcome", a.GetOutcome(), pb.Outcome_OUTCOME_COMMITTED)
	rctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(t, server.Restart(rctx))
	reconnect()
	until(t, func() bool { return w.prepared() == 0 })
	equal(t, "balance", w.balance(1), 98)
}

// prepareDatabase does what database does, for a database that is there.
func prepareDatabase(t *testing.T, dsn string) {
	t.Helper()
	conn := connect(t, dsn)
	check(t, undolog.Install(limited(t), conn))
	exec(t, conn, schema)
	_, err := undolog.Protect(limited(t), conn, protected...)
	check(t, err)
}

func TestXAVotesAreLookedUpInTheDatabase(t *testing.T) {
	t.Parallel()
	s, session, w := scripted(t)
	forgetPrepared(t, w.dsn)
	answers := make(chan *pb.AskItemResult, 16)
	branches := make(chan string, 16)
	s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if r := f.GetRegisterBranch(); r != nil {
			branches <- r.GetBranchId()
		}
		for _, i := range f.GetAskVotesResult().GetItems() {
			answers <- i
		}
		return f.GetVote() != nil // lost
	})
	ask := func(x xid.ID, branch string) pb.Vote {
		t.Helper()
		session.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_AskVotes{AskVotes: &pb.AskVotes{
			ResourceId: w.pool.Resource().String(),
			Items: []*pb.AskItem{
				{Xid: x.String(), BranchId: branch, Mode: 77}, // not answered: another one may know it
				{Xid: x.String(), BranchId: branch, Mode: pb.Mode_MODE_XA},
			},
		}}})
		return receive(t, answers).GetVote()
	}
	x := freshXID(s)
	ctx := rm.ContextWithMode(xid.NewContext(limited(t), x), rm.XA)
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, take, 1)
	check(t, err)
	branch := <-branches
	equal(t, "open", ask(x, branch), pb.Vote_VOTE_OPEN)
	check(t, tx.Commit(ctx))
	equal(t, "prepared", ask(x, branch), pb.Vote_VOTE_YES)
	tx, err = w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, take, 2)
	check(t, err)
	branch = <-branches
	check(t, tx.Rollback(ctx))
	equal(t, "rolled back", ask(x, branch), pb.Vote_VOTE_NO)
}

// A command for a mode of later is refused, not guessed.
func TestXAUnknownModesAreNotSettled(t *testing.T) {
	t.Parallel()
	s, session, w := scripted(t)
	results := make(chan *pb.SettleItemResult, 1)
	s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
		for _, i := range f.GetSettleResult().GetItems() {
			results <- i
		}
		return false
	})
	session.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_Settle{Settle: &pb.Settle{
		ResourceId: w.pool.Resource().String(), Items: []*pb.SettleItem{{
			Xid: freshXID(s).String(), Outcome: pb.Outcome_OUTCOME_ROLLED_BACK,
			Branches: []*pb.SettleBranch{{BranchId: xid.NewBranchID().String(), Mode: 3}},
		}},
	}}})
	if r := receive(t, results); r.GetDone() || !strings.Contains(r.GetError(), "not known to this resource manager") {
		t.Fatalf("got %v", r)
	}
}

// The janitor finds what is prepared, and acts on nothing but a decision.
func TestXAJanitor(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s, _, w := scripted(t, rm.WithJanitorInterval(5*time.Millisecond), rm.WithJanitorAge(0),
		rm.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	forgetPrepared(t, w.dsn)
	c := answering(s)
	x := freshXID(s)
	c.answer.Store(transaction(pb.Outcome_OUTCOME_UNDECIDED, x))
	ctx := rm.ContextWithMode(xid.NewContext(limited(t), x), rm.XA)
	_, err := w.pool.Exec(ctx, take, 1)
	check(t, err)
	mine := &pb.Branch{BranchId: <-c.branches, ResourceId: w.pool.Resource().String(), Vote: pb.Vote_VOTE_YES, Mode: pb.Mode_MODE_XA}
	later := &pb.Branch{BranchId: mine.BranchId, ResourceId: mine.ResourceId, Vote: pb.Vote_VOTE_YES, Mode: 3}
	for name, a := range map[string]*pb.ServerFrame{
		"undecided": transaction(pb.Outcome_OUTCOME_UNDECIDED, x, mine),
		"nonsense":  transaction(77, x, mine),
		"no branch": transaction(pb.Outcome_OUTCOME_COMMITTED, x),
		"later":     transaction(pb.Outcome_OUTCOME_COMMITTED, x, later),
		"unknown":   refusal(t, pb.ErrorReason_ERROR_REASON_UNKNOWN_XID),
		"expired":   refusal(t, pb.ErrorReason_ERROR_REASON_EXPIRED_XID),
		"foreign":   refusal(t, pb.ErrorReason_ERROR_REASON_FOREIGN_STORE),
	} {
		c.answer.Store(a)
		for range 3 { // the third question comes after the first answer was acted on
			select {
			case <-c.asked: // one of before
			default:
			}
			receive(t, c.asked)
		}
		if w.prepared() != 1 {
			t.Fatalf("%s: it was finished", name)
		}
	}
	if !strings.Contains(log.String(), "left alone") {
		t.Errorf("no word of it in %q", log.String())
	}
	c.answer.Store(transaction(pb.Outcome_OUTCOME_COMMITTED, x, mine))
	until(t, func() bool { return w.prepared() == 0 })
	until(t, func() bool { return w.balance(1) == 99 })

	// Prepared under a known XID by nobody that registered; and under no XID.
	exec(t, w.look, "BEGIN; UPDATE account SET balance = 1 WHERE id = 5")
	exec(t, w.look, fmt.Sprintf("PREPARE TRANSACTION '%s'", undolog.GID(x, xid.NewBranchID())))
	exec(t, w.look, "BEGIN; UPDATE account SET balance = 1 WHERE id = 6; PREPARE TRANSACTION 'handfast:what'")
	until(t, func() bool {
		return strings.Contains(log.String(), "none that the coordinator knows") && strings.Contains(log.String(), "none that Handfast gives")
	})
	equal(t, "prepared", w.prepared(), 2)
}

// Many at once, with both modes and both outcomes, while connections break.
func TestXAManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t, rm.WithJanitorInterval(50*time.Millisecond), rm.WithJanitorAge(time.Second))
	proxy, dsn := through(t, w.dsn, 0)
	pool := open(t, w.tc, dsn, rm.WithMode(rm.XA))
	const workers, rounds = 4, 12
	total := make(chan int, workers)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		// The pauses grow: a busy machine may need longer than the first to connect at all.
		for pause := 50 * time.Millisecond; ; pause += pause / 10 {
			select {
			case <-stop:
				return
			case <-time.After(pause):
				proxy.cutAll()
			}
		}
	}()
	for id := range workers {
		go func() {
			kept := 0
			defer func() { total <- kept }()
			for n := range rounds {
				ctx, x := w.begin()
				done := true
				for i, p := range []*rm.Pool{pool, w.pool} {
					mode := rm.Mode(1 + (n+i)%2)
					if _, err := p.Exec(rm.ContextWithMode(ctx, mode), take, 10*id+i+1); err != nil {
						done = false // the connection was cut
					}
				}
				if !done || n%3 == 2 {
					if _, err := w.tc.Rollback(ctx, &pb.RollbackRequest{Xid: x.String(), WaitSettled: true}); err != nil {
						t.Error(err)
					}
					continue
				}
				a, err := w.tc.Commit(ctx, &pb.CommitRequest{Xid: x.String(), WaitSettled: true})
				if err != nil {
					t.Error(err)
				}
				if a.GetOutcome() == pb.Outcome_OUTCOME_COMMITTED {
					kept += 2
				}
			}
		}()
	}
	want := 100 * 100
	for range workers {
		want -= <-total
	}
	close(stop)
	<-stopped
	equal(t, "sum", value[int](w, "SELECT sum(balance)::int FROM account"), want)
	equal(t, "left", w.prepared()+w.intents(), 0)
}

// Nothing is prepared before the coordinator is sure to know of it.
func TestXAWaitsForTheAcknowledgement(t *testing.T) {
	t.Parallel()
	s, _, w := scripted(t)
	forgetPrepared(t, w.dsn)
	hasty := open(t, w.tc, w.dsn, rm.WithRegisterTimeout(200*time.Millisecond))
	registered := make(chan func(), 1)
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetRegisterBranch() != nil {
			registered <- func() { n.Send(s.Answer(f)) }
			return true
		}
		return false
	})
	work := func(p *rm.Pool, id int) chan error {
		done := make(chan error, 1)
		ctx := rm.ContextWithMode(xid.NewContext(limited(t), freshXID(s)), rm.XA)
		go func() {
			_, err := p.Exec(ctx, take, id)
			done <- err
		}()
		return done
	}
	done := work(w.pool, 1)
	acknowledge := receive(t, registered)
	time.Sleep(100 * time.Millisecond)
	equal(t, "prepared before", w.prepared(), 0)
	acknowledge()
	check(t, receive(t, done))
	equal(t, "prepared after", w.prepared(), 1)

	done = work(hasty, 2) // this one is never acknowledged
	receive(t, registered)
	err := receive(t, done)
	if _, ok := errors.AsType[*rm.RegisterError](err); !ok {
		t.Fatalf("got %v", err)
	}
	equal(t, "prepared", w.prepared(), 1)
}

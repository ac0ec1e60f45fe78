package message_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	"github.com/handfast/handfast/message"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, on func(*faketc.Session, *pb.ClientFrame) bool) (*tm.Manager, chan *pb.ClientFrame) {
	t.Helper()
	frames := make(chan *pb.ClientFrame, 64)
	tc := faketc.Start(t)
	tc.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetHello() == nil && f.GetGet() == nil {
			frames <- f
		}
		return on != nil && on(n, f)
	})
	c, err := client.Dial(tc.Addr(), client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return tm.New(c), frames
}

func order() *message.Message {
	return message.New("order").
		To(target.HTTP("http://mail", target.Payload("hi"), target.Delay(time.Minute))).
		To(target.Handler("billing", "bill"), message.Name("bill"), message.Retry(target.RetryPolicy{First: time.Second})).
		To(target.HTTP("http://log/${steps.bill.id}"), message.After("bill", "to-1"))
}

// deliveries checks the branches of a message.
func deliveries(t *testing.T, bs []*pb.RegisterBranchRequest) {
	t.Helper()
	var names []string
	for _, b := range bs {
		names = append(names, b.GetName())
		if b.GetMode() != pb.Mode_MODE_MESSAGE || b.GetVote() != pb.Vote_VOTE_YES || b.GetPlan().GetCommit() == nil ||
			b.GetPlan().GetForward() != nil || b.GetPlan().GetRollback() != nil {
			t.Errorf("branch %v", b)
		}
	}
	if got := strings.Join(names, " "); got != "to-1 bill to-3" {
		t.Fatalf("receivers %s", got)
	}
	if after := bs[2].GetPlan().GetAfter(); len(after) != 2 || after[0] != bs[1].GetBranchId() || after[1] != bs[0].GetBranchId() {
		t.Errorf("after %v", after)
	}
	if bs[0].GetPlan().GetCommit().GetDelay().AsDuration() != time.Minute || bs[1].GetPlan().GetRetry().GetFirst().AsDuration() != time.Second {
		t.Errorf("got %v", bs)
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	ctx, giveUp := context.WithCancel(t.Context())
	lost := true
	m, frames := start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetSubmit() == nil {
			return false
		}
		defer func() { lost = false }()
		giveUp()
		return lost
	})
	id, err := order().Send(ctx, m)
	if !errors.Is(err, tm.ErrOutcomeUnknown) || (<-frames).GetBegin().GetName() != "order" {
		t.Fatalf("got %v", err)
	}
	if err := order().SendAs(t.Context(), m, tm.Tx{XID: id}); err != nil {
		t.Fatal(err)
	}
	first, again := (<-frames).GetSubmit(), (<-frames).GetSubmit()
	deliveries(t, first.GetBranches())
	if first.String() != again.String() || first.GetXid() != id.String() || first.GetTimeout() != nil {
		t.Errorf("%v, then %v", first, again)
	}
}

func TestReceiversWithoutAPolicyHaveThatOfTheMessage(t *testing.T) {
	t.Parallel()
	m, frames := start(t, nil)
	if _, err := order().Retry(target.RetryPolicy{Max: time.Minute}).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	<-frames
	bs := (<-frames).GetSubmit().GetBranches()
	deliveries(t, bs)
	for i, own := range []bool{false, true, false} {
		if p := bs[i].GetPlan().GetRetry(); (p.GetMax() == nil) != own || (p.GetFirst() != nil) != own {
			t.Errorf("%s: got %v", bs[i].GetName(), p)
		}
	}
}

func TestEnlist(t *testing.T) {
	t.Parallel()
	m, frames := start(t, nil)
	if err := order().Enlist(t.Context(), m); !errors.Is(err, message.ErrNoTransaction) {
		t.Errorf("got %v", err)
	}
	if err := m.Do(t.Context(), func(ctx context.Context) error {
		return errors.Join(order().Enlist(ctx, m), order().Enlist(ctx, m))
	}); err != nil {
		t.Fatal(err)
	}
	<-frames
	ids := make(map[string]bool)
	for range 2 {
		var bs []*pb.RegisterBranchRequest
		for range 3 {
			b := (<-frames).GetRegisterBranch()
			bs, ids[b.GetBranchId()] = append(bs, b), true
		}
		deliveries(t, bs)
	}
	if len(ids) != 6 || (<-frames).GetCommit() == nil {
		t.Errorf("%d branches", len(ids))
	}
}

func TestPreparedMessageWaitsForAWord(t *testing.T) {
	t.Parallel()
	outcome := pb.Outcome_OUTCOME_UNDECIDED
	m, frames := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetVote() == nil {
			return false
		}
		n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Vote{Vote: &pb.VoteResponse{Outcome: outcome}}})
		return true
	})
	p, err := order().Prepare(t.Context(), m, message.CheckBack(target.HTTP("http://orders/check", target.Payload("7")), 30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	<-frames
	bs := (<-frames).GetSubmit().GetBranches()
	check := bs[0]
	if f := check.GetPlan().GetForward(); check.GetName() != "check-back" || check.GetVote() != 0 || f.GetUrl() != "http://orders/check" || f.GetDelay().AsDuration() != 30*time.Second {
		t.Errorf("check-back %v", check)
	}
	deliveries(t, bs[1:])

	p = message.Resume(m, p.XID)
	for _, c := range []struct {
		outcome pb.Outcome
		say     func() error
		vote    pb.Vote
		reason  string
		err     error
	}{
		{pb.Outcome_OUTCOME_UNDECIDED, func() error { return p.Send(t.Context()) }, pb.Vote_VOTE_YES, "", nil},
		{pb.Outcome_OUTCOME_COMMITTED, func() error { return p.Send(t.Context()) }, pb.Vote_VOTE_YES, "", nil},
		{pb.Outcome_OUTCOME_ROLLED_BACK, func() error { return p.Send(t.Context()) }, pb.Vote_VOTE_YES, "", tm.ErrRolledBack},
		{pb.Outcome_OUTCOME_ROLLED_BACK, func() error { return p.Drop(t.Context(), nil) }, pb.Vote_VOTE_NO, "dropped by the sender", nil},
		{pb.Outcome_OUTCOME_COMMITTED, func() error { return p.Drop(t.Context(), errors.New("no")) }, pb.Vote_VOTE_NO, "dropped by the sender: no", tm.ErrCommitted},
	} {
		outcome = c.outcome
		if err := c.say(); !errors.Is(err, c.err) || (c.err == nil) != (err == nil) {
			t.Errorf("%v, %v: got %v", c.outcome, c.vote, err)
		}
		v := (<-frames).GetVote()
		if v.GetVote() != c.vote || v.GetReason() != c.reason || v.GetBranchId() != check.GetBranchId() || v.GetXid() != p.XID.String() {
			t.Errorf("voted %v", v)
		}
	}
	if err := (message.Prepared{}).Send(t.Context()); err == nil {
		t.Error("an empty Prepared was sent")
	}
}

func TestValidateNamesTheReceiver(t *testing.T) {
	t.Parallel()
	to := target.HTTP("http://h")
	large := target.HTTP("http://h", target.Payload(make([]byte, target.MaxPayload)))
	for want, m := range map[string]*message.Message{
		`message "m": it has 0 receivers; want from 1 to 255`:                       message.New("m"),
		`message "m": receiver "a b": the name "a b"; want letters`:                 message.New("m").To(to, message.Name("a b")),
		`message "m": receiver "a": there is another one of that name`:              message.New("m").To(to, message.Name("a")).To(to, message.Name("a")),
		`message "m": receiver "check-back": there is another one of that name`:     message.New("m").To(to, message.Name("check-back")),
		`message "m": receiver "to-1": http: "h"; want a URL`:                       message.New("m").To(target.HTTP("h")),
		`message "m": receiver "to-1": retry: percent is 9; want`:                   message.New("m").To(to, message.Retry(target.RetryPolicy{Percent: 9})),
		`message "m": retry: percent is 9; want`:                                    message.New("m").To(to).Retry(target.RetryPolicy{Percent: 9}),
		`message "m": retry: a message is delivered until that succeeds`:            message.New("m").To(to).Retry(target.RetryPolicy{Attempts: 9}),
		`receiver "to-1": retry: a message is delivered until that succeeds`:        message.New("m").To(to, message.Retry(target.RetryPolicy{Attempts: 9})),
		`receiver "to-1": after: there is no receiver "to-2" added before this one`: message.New("m").To(to, message.After("to-2")).To(to),
		`receiver "to-2": it uses the result of "to-1"; want that name in After`:    message.New("m").To(to).To(target.HTTP("http://h/${steps.to-1}")),
		`receiver "to-2": it uses the result of "to-1", which has none: it is called as DTM would`: message.New("m").
			To(target.HTTP("http://h", target.DTM())).To(target.HTTP("http://h/${steps.to-1}"), message.After("to-1")),
		`receiver "to-1": it uses its own result, which there is none before it is called`: message.New("m").To(target.HTTP("http://h/${own}")),
		`message "m": it is 2097`: message.New("m").To(large).To(large),
	} {
		var e *message.Error
		if err := m.Validate(); !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	mgr, frames := start(t, nil)
	if _, err := message.New("m").Send(t.Context(), mgr); err == nil {
		t.Error("it was sent")
	}
	if err := message.New("m").Enlist(xid.NewContext(t.Context(), xid.ID{1}), mgr); err == nil {
		t.Error("it was enlisted")
	}
	_, err := order().Prepare(t.Context(), mgr, message.CheckBack(to, -1))
	if err == nil || !strings.Contains(err.Error(), `message "order": receiver "check-back": delay: -1ns; want`) {
		t.Errorf("got %v", err)
	}
	if len(frames) > 0 {
		t.Errorf("sent %v", <-frames)
	}
}

package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// undone tells whether whatever was done was undone, once.
func undone(lines []string) bool {
	count := map[string]int{}
	for _, line := range lines {
		name, action, _ := strings.Cut(line, " ")
		switch action {
		case "forward":
			count[name]++
		case "rollback":
			count[name] += 100
		default:
			return false
		}
	}
	for _, n := range count {
		if n != 101 {
			return false
		}
	}
	return true
}

// judge tells what is wrong at the end of a run.
func (r *run) judge(ctx context.Context, hit bool) error {
	list, err := r.admin.List(ctx, &pb.ListRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	status, err := r.admin.Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	var query string
	if r.mode == "dtm" {
		if query, err = r.dtmQuery(ctx); err != nil {
			return err
		}
	}
	r.transactions = len(list.GetTransactions())
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if status.GetQuarantined() {
		wrong("quarantine: %s", status.GetQuarantineReason())
	}
	outcome := r.held(wrong, list.GetTransactions())
	lines, undecided := r.state()
	switch want := scenarios[r.mode].committed; {
	case undecided > 0:
		wrong("%d local transactions are undecided", undecided)
	case outcome == committed && !slices.Equal(lines, want):
		wrong("it is committed, and there is %q", lines)
	case outcome == rolledBack && !undone(lines):
		wrong("it is rolled back, and there is %q", lines)
	}
	switch {
	case r.said != unknown && r.said != outcome:
		wrong("it is %s, and the caller was told %s", outcome, r.said)
	case r.refuse && outcome == committed:
		wrong("it is committed although somebody refused")
	case !r.refuse && !hit && !scenarios[r.mode].open && outcome != committed:
		wrong("it is rolled back although nobody refused, on a good disk")
	case !r.refuse && !scenarios[r.mode].open && outcome != committed && r.durable():
		wrong("it is rolled back although nobody refused, and a branch or all of it was durable: a crash aborts nobody")
	case r.mode == "dtm" && query != outcome && (query != "" || len(list.GetTransactions()) > 0):
		wrong("it is %s, and DTM's clients are told %q", outcome, query)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.alarms {
		wrong("%s", a)
	}
	if len(errs) > 0 {
		wrong("on record: %v", list.GetTransactions())
	}
	return errors.Join(errs...)
}

// durable tells whether anybody has heard that a branch is registered, or that the whole
// is submitted. Before that a crash may take the transaction away.
func (b *books) durable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.branches) > 0 || len(b.taken) > 0
}

// state is what all participants hold together.
func (s *service) state() (lines []string, undecided int) {
	lines = s.shop.state()
	for _, d := range s.dbs {
		more, n := d.state()
		lines = append(lines, more...)
		undecided += n
	}
	slices.Sort(lines)
	return lines, undecided
}

// held compares what anybody was told with what is on record, and gives the outcome of
// the scenario.
func (r *run) held(wrong func(string, ...any), list []*pb.Transaction) (outcome string) {
	outcome = rolledBack
	known := map[string]*pb.Transaction{}
	for _, tx := range list {
		known[tx.GetXid()] = tx
		if tx.GetKey() != "" {
			if known[tx.GetKey()] != nil {
				wrong("there are two transactions for %s", tx.GetKey())
			}
			known[tx.GetKey()] = tx
		}
		if len(tx.GetBranches()) > 0 && tx.GetOutcome() == pb.Outcome_OUTCOME_COMMITTED {
			outcome = committed
		}
		if tx.GetAttention() {
			wrong("%s needs attention", tx.GetXid())
		}
	}
	for _, err := range r.remembers(func(x string) *pb.Transaction { return known[x] }, true) {
		wrong("%w", err)
	}
	return outcome
}

// remembers compares what anybody was told with what a coordinator knows. ended: there
// is an outcome by now.
func (b *books) remembers(get func(x string) *pb.Transaction, ended bool) (errs []error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for x, told := range b.outcomes {
		tx := get(x)
		for out, who := range told {
			is := outcomeText(tx.GetOutcome())
			if is != out {
				errs = append(errs, fmt.Errorf("%s: %s was told that it is %s; it is %s", x, who, out, is))
			}
		}
	}
	for x, branches := range b.branches {
		tx := get(x)
		for branch, who := range branches {
			if !slices.ContainsFunc(tx.GetBranches(), func(is *pb.Branch) bool { return is.GetBranchId() == branch }) {
				errs = append(errs, fmt.Errorf("%s: branch %s is forgotten, of which it was heard by: %s", x, branch, who))
			}
		}
	}
	for x := range b.taken {
		tx := get(x)
		switch {
		case tx == nil:
			errs = append(errs, fmt.Errorf("%s: submitted, and forgotten", x))
		case ended && tx.GetRollbackReason() == pb.RollbackReason_ROLLBACK_REASON_TIMEOUT:
			errs = append(errs, fmt.Errorf("%s: submitted, and rolled back because of its deadline", x))
		}
	}
	return errs
}

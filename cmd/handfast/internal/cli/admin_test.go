package cli

import (
	"context"
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

// fakeAdmin answers with what the test put in and keeps what it was asked.
// That the real service answers so is tested against the real coordinator.
type fakeAdmin struct {
	handfastv1.UnimplementedAdminServer
	txs      []*handfastv1.Transaction
	events   []*handfastv1.WatchEvent
	commit   *handfastv1.CommitResponse
	status   *handfastv1.StatusResponse
	err      error
	mu       sync.Mutex
	requests []proto.Message
}

func (f *fakeAdmin) note(m proto.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, proto.Clone(m))
}

func (f *fakeAdmin) last(t *testing.T) proto.Message {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) == 0 {
		t.Fatal("nothing was asked")
	}
	return f.requests[len(f.requests)-1]
}

// List gives pages of PageSize; the token is the index of the next.
func (f *fakeAdmin) List(_ context.Context, r *handfastv1.ListRequest) (*handfastv1.ListResponse, error) {
	f.note(r)
	if f.err != nil {
		return nil, f.err
	}
	from, _ := strconv.Atoi(r.GetPageToken())
	to := min(from+int(r.GetPageSize()), len(f.txs))
	resp := &handfastv1.ListResponse{Transactions: f.txs[from:to]}
	if to < len(f.txs) {
		resp.NextPageToken = strconv.Itoa(to)
	}
	return resp, nil
}

func (f *fakeAdmin) Show(_ context.Context, r *handfastv1.GetRequest) (*handfastv1.GetResponse, error) {
	f.note(r)
	if f.err != nil {
		return nil, f.err
	}
	return &handfastv1.GetResponse{Transaction: f.txs[0]}, nil
}

func (f *fakeAdmin) Commit(_ context.Context, r *handfastv1.AdminCommitRequest) (*handfastv1.CommitResponse, error) {
	f.note(r)
	return f.commit, f.err
}

func (f *fakeAdmin) Rollback(_ context.Context, r *handfastv1.AdminRollbackRequest) (*handfastv1.RollbackResponse, error) {
	f.note(r)
	return &handfastv1.RollbackResponse{Outcome: handfastv1.Outcome_OUTCOME_ROLLED_BACK}, f.err
}

func (f *fakeAdmin) RetryNow(_ context.Context, r *handfastv1.RetryNowRequest) (*handfastv1.RetryNowResponse, error) {
	f.note(r)
	return &handfastv1.RetryNowResponse{Resources: 2}, f.err
}

func (f *fakeAdmin) Watch(r *handfastv1.WatchRequest, stream grpc.ServerStreamingServer[handfastv1.WatchEvent]) error {
	f.note(r)
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for _, ev := range f.events {
		if err := stream.Send(ev); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fakeAdmin) Status(_ context.Context, r *handfastv1.StatusRequest) (*handfastv1.StatusResponse, error) {
	f.note(r)
	return f.status, f.err
}

func (f *fakeAdmin) Adopt(_ context.Context, r *handfastv1.AdoptRequest) (*handfastv1.AdoptResponse, error) {
	f.note(r)
	return &handfastv1.AdoptResponse{}, f.err
}

// serveFake runs f until the test ends and gives the environment that points at it.
func serveFake(t *testing.T, f *fakeAdmin) []string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	handfastv1.RegisterAdminServer(s, f)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return []string{"HANDFAST_SERVER=" + l.Addr().String()}
}

func aTransaction(name string) *handfastv1.Transaction {
	at := func(s int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(2026, 1, 31, 8, 0, s, 0, time.UTC))
	}
	return &handfastv1.Transaction{
		Xid: anXID, Name: name, Phase: handfastv1.Phase_PHASE_SETTLING, Outcome: handfastv1.Outcome_OUTCOME_ROLLED_BACK,
		RollbackReason: handfastv1.RollbackReason_ROLLBACK_REASON_VOTED_NO, RollbackCause: "no stock",
		BeginTime: at(0), Deadline: at(59), DecisionTime: at(2), Attention: true,
		Branches: []*handfastv1.Branch{{BranchId: strings.Repeat("ab", 16), ResourceId: aUUID, Mode: handfastv1.Mode_MODE_AT,
			Vote: handfastv1.Vote_VOTE_NO, VoteReason: "empty shelf", RegisterTime: at(1)}},
		Settlements: []*handfastv1.Settlement{{ResourceId: aUUID, Attempts: 7, LastError: "connection refused",
			LastAttemptTime: at(3), NextAttemptTime: at(33), Attention: true}},
	}
}

func TestListSendsItsFiltersAndPrintsAlignedRows(t *testing.T) {
	t.Parallel()
	f := &fakeAdmin{txs: []*handfastv1.Transaction{aTransaction("order/\x1bplace"), aTransaction("b"), aTransaction("c")}}
	env := serveFake(t, f)
	code, out, errOut := run(t, env, "tx", "list", "--phase", "settling,active", "--outcome", "rolled-back", "--resource", aUUID,
		"--name", "order", "--attention", "--since", "2026-01-01T00:00:00Z", "--limit", "2")
	if code != ExitOK {
		t.Fatal(errOut)
	}
	want := &handfastv1.ListRequest{
		Phases:  []handfastv1.Phase{handfastv1.Phase_PHASE_SETTLING, handfastv1.Phase_PHASE_ACTIVE},
		Outcome: handfastv1.Outcome_OUTCOME_ROLLED_BACK, ResourceId: aUUID, NamePrefix: "order", Attention: true,
		BegunAfter: timestamppb.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), PageSize: 2,
	}
	if got := f.last(t); !proto.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 {
		t.Fatalf("got\n%s", out)
	}
	for _, column := range []string{"PHASE", "OUTCOME", "ATTENTION", "NAME"} {
		i := strings.Index(lines[0], column)
		for _, l := range lines[1:] {
			if i < 0 || l[i-1] != ' ' || l[i] == ' ' {
				t.Errorf("column %s is not aligned:\n%s", column, out)
			}
		}
	}
	for _, w := range []string{anXID, "settling", "rolled-back", "LOOK", "order/?place"} {
		if !strings.Contains(lines[1], w) {
			t.Errorf("%q does not show %q", lines[1], w)
		}
	}
	if !strings.Contains(errOut, "--page 2") {
		t.Errorf("standard error does not name the next page: %q", errOut)
	}
}

func TestListAllJoinsThePages(t *testing.T) {
	t.Parallel()
	f := &fakeAdmin{}
	for range 5 {
		f.txs = append(f.txs, aTransaction("t"))
	}
	code, out, _ := run(t, serveFake(t, f), "tx", "list", "--all", "--limit", "2", "--json")
	var got struct {
		Transactions []struct {
			Xid   string
			Phase string
		}
		NextPageToken *string `json:"next_page_token"`
	}
	if err := json.Unmarshal([]byte(out), &got); code != ExitOK || err != nil {
		t.Fatalf("%d, %v: %s", code, err, out)
	}
	if len(got.Transactions) != 5 || got.Transactions[4].Phase != "PHASE_SETTLING" || got.NextPageToken == nil || *got.NextPageToken != "" {
		t.Errorf("got %s", out)
	}
}

func TestEmptyListIsEmptyJSONAndSaysSoOtherwise(t *testing.T) {
	t.Parallel()
	env := serveFake(t, &fakeAdmin{})
	if code, out, errOut := run(t, env, "tx", "list"); code != ExitOK || out != "" || !strings.Contains(errOut, "no transactions") {
		t.Errorf("%d, %q, %q", code, out, errOut)
	}
	if _, out, _ := run(t, env, "tx", "list", "--json"); !strings.Contains(out, `"transactions": []`) {
		t.Errorf("got %s", out)
	}
}

func TestShowPrintsBranchesAndSettlements(t *testing.T) {
	t.Parallel()
	env := serveFake(t, &fakeAdmin{txs: []*handfastv1.Transaction{aTransaction("order")}})
	code, out, errOut := run(t, env, "tx", "show", anXID)
	if code != ExitOK {
		t.Fatal(errOut)
	}
	for _, w := range []string{anXID, "settling", "rolled-back", "voted-no", "no stock", "2026-01-31 08:00:00.000Z", "2026-01-31 08:00:59.000Z",
		strings.Repeat("ab", 16), aUUID, "empty shelf", "LAST ERROR", "connection refused", "7", "LOOK", "NEXT TRY"} {
		if !strings.Contains(out, w) {
			t.Errorf("does not show %q:\n%s", w, out)
		}
	}
	if code, out, _ := run(t, env, "tx", "show", anXID, "--json"); code != ExitOK || !json.Valid([]byte(out)) || !strings.Contains(out, `"last_error": "connection refused"`) {
		t.Errorf("%d, %s", code, out)
	}
}

func TestShowTellsWhatIsCalled(t *testing.T) {
	t.Parallel()
	last := timestamppb.New(time.Date(2026, 1, 31, 8, 0, 7, 0, time.UTC))
	tx := &handfastv1.Transaction{
		Xid: anXID, Phase: handfastv1.Phase_PHASE_SETTLING, Outcome: handfastv1.Outcome_OUTCOME_ROLLED_BACK,
		Branches: []*handfastv1.Branch{
			{BranchId: strings.Repeat("ab", 16), Name: "hotel", Mode: handfastv1.Mode_MODE_SAGA, Vote: handfastv1.Vote_VOTE_YES, Plan: &handfastv1.Plan{
				Forward: &handfastv1.Action{Url: "http://hotel/book"}, Rollback: &handfastv1.Action{Url: "http://hotel/cancel", Dialect: handfastv1.Dialect_DIALECT_DTM}}},
			{BranchId: strings.Repeat("cd", 16), Name: "flight", Mode: handfastv1.Mode_MODE_SAGA, Vote: handfastv1.Vote_VOTE_NO, VoteReason: "no seat",
				Plan: &handfastv1.Plan{Forward: &handfastv1.Action{Handler: "fly", HandlerResource: aUUID}}},
			{BranchId: strings.Repeat("ef", 16), Name: "car", Mode: handfastv1.Mode_MODE_SAGA,
				Plan: &handfastv1.Plan{Forward: &handfastv1.Action{Handler: "drive", HandlerResource: aUUID, HandlerGroup: "garage"}}},
		},
		Settlements: []*handfastv1.Settlement{{BranchId: strings.Repeat("ab", 16), Op: handfastv1.Op_OP_ROLLBACK, Attempts: 3, LastError: "503", LastAttemptTime: last}},
	}
	env := serveFake(t, &fakeAdmin{txs: []*handfastv1.Transaction{tx}})
	code, out, errOut := run(t, env, "tx", "show", anXID)
	if code != ExitOK {
		t.Fatal(errOut)
	}
	for _, w := range []string{"http://hotel/book ", "http://hotel/cancel (as DTM) ", "rollback", "503", "08:00:07", "failed: no seat", "fly of " + aUUID, "drive of garage ", "LAST ANSWER"} {
		if !strings.Contains(out, w) {
			t.Errorf("does not show %q:\n%s", w, out)
		}
	}
	if strings.Contains(out, "SETTLED") {
		t.Errorf("shows databases that there are not:\n%s", out)
	}
}

func TestCommitFailsWhenTheDecisionIsToRollBack(t *testing.T) {
	t.Parallel()
	f := &fakeAdmin{commit: &handfastv1.CommitResponse{Outcome: handfastv1.Outcome_OUTCOME_COMMITTED}}
	env := serveFake(t, f)
	code, out, _ := run(t, env, "tx", "commit", anXID, "--operator", "jo")
	if code != ExitOK || out != anXID+" committed\n" {
		t.Errorf("%d, %q", code, out)
	}
	if want := (&handfastv1.AdminCommitRequest{Xid: anXID, Operator: "jo"}); !proto.Equal(f.last(t), want) {
		t.Errorf("asked %v", f.last(t))
	}
	f.commit = &handfastv1.CommitResponse{Outcome: handfastv1.Outcome_OUTCOME_ROLLED_BACK,
		RollbackReason: handfastv1.RollbackReason_ROLLBACK_REASON_TIMEOUT, RollbackCause: "late"}
	code, out, errOut := run(t, env, "tx", "commit", anXID)
	if code != ExitFailure || out != "" || !strings.Contains(errOut, "rolled-back (timeout: late)") {
		t.Errorf("%d, %q, %q", code, out, errOut)
	}
	if f.last(t).(*handfastv1.AdminCommitRequest).GetOperator() == "" {
		t.Error("no operator was sent")
	}
}

func TestRollbackRetryAndAdoptSendWhatTheyWereTold(t *testing.T) {
	t.Parallel()
	f := &fakeAdmin{}
	env := serveFake(t, f)
	if code, out, _ := run(t, env, "tx", "rollback", anXID, "--operator", "jo", "--cause", "stuck"); code != ExitOK || out != anXID+" rolled-back\n" {
		t.Errorf("%d, %q", code, out)
	}
	if want := (&handfastv1.AdminRollbackRequest{Xid: anXID, Operator: "jo", Cause: "stuck"}); !proto.Equal(f.last(t), want) {
		t.Errorf("asked %v", f.last(t))
	}
	if code, out, _ := run(t, env, "tx", "retry", anXID); code != ExitOK || !strings.Contains(out, "2 resources") {
		t.Errorf("%d, %q", code, out)
	}
	if code, out, _ := run(t, env, "adopt", "--yes", "--operator", "jo"); code != ExitOK || !strings.Contains(out, "jo") {
		t.Errorf("%d, %q", code, out)
	}
	if want := (&handfastv1.AdoptRequest{Operator: "jo"}); !proto.Equal(f.last(t), want) {
		t.Errorf("asked %v", f.last(t))
	}
}

func TestRefusalsShowTheReason(t *testing.T) {
	t.Parallel()
	st, err := status.New(codes.NotFound, "this store issued no such XID").WithDetails(
		&errdetails.ErrorInfo{Domain: "handfast", Reason: "ERROR_REASON_UNKNOWN_XID"})
	if err != nil {
		t.Fatal(err)
	}
	env := serveFake(t, &fakeAdmin{err: st.Err()})
	for _, args := range [][]string{{"tx", "show", anXID}, {"tx", "commit", anXID}, {"tx", "rollback", anXID}, {"tx", "retry", anXID},
		{"tx", "watch"}, {"tx", "list"}, {"status"}, {"adopt", "--yes"}} {
		code, _, errOut := run(t, env, args...)
		if code != ExitFailure || !strings.Contains(errOut, "issued no such XID") || !strings.Contains(errOut, "UNKNOWN_XID") {
			t.Errorf("%v: %d, %q", args, code, errOut)
		}
	}
}

func TestWatchOfOneEndsWhenItIsFinished(t *testing.T) {
	t.Parallel()
	now := timestamppb.Now()
	finished := aTransaction("t")
	finished.Phase = handfastv1.Phase_PHASE_FINISHED
	f := &fakeAdmin{txs: []*handfastv1.Transaction{aTransaction("t")}, events: []*handfastv1.WatchEvent{
		{Time: now, Transaction: aTransaction("t"), Missed: 3}, {Time: now, Transaction: finished}, {Time: now, Transaction: finished}}}
	env := serveFake(t, f)
	code, out, errOut := run(t, env, "tx", "watch", anXID)
	if code != ExitOK || strings.Count(out, "\n") != 3 || !strings.Contains(out, "finished") || !strings.Contains(errOut, "3 changes") {
		t.Errorf("%d, %q, %q", code, out, errOut)
	}
	code, out, _ = run(t, env, "tx", "watch", anXID, "--json")
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if code != ExitOK || !json.Valid([]byte(line)) {
			t.Errorf("%d, %q", code, line)
		}
	}
	// Without an XID only the coordinator or the user ends it.
	code, _, errOut = run(t, env, "tx", "watch")
	if code != ExitFailure || !strings.Contains(errOut, "going away") {
		t.Errorf("%d, %q", code, errOut)
	}
}

func TestStatusShowsQuarantineAndClients(t *testing.T) {
	t.Parallel()
	f := &fakeAdmin{status: &handfastv1.StatusResponse{Version: "v1", StoreId: "00ff", Incarnation: 4, OpenTransactions: 12,
		Quarantined: true, QuarantineReason: "restored copy", Clients: []*handfastv1.AttachedClient{
			{Name: "idle", Since: timestamppb.Now()},
			{Name: "stock/1", Since: timestamppb.Now(), Resources: []*handfastv1.AttachedResource{{ResourceId: aUUID, Name: "stock@db"}}}}}}
	env := serveFake(t, f)
	code, out, _ := run(t, env, "status")
	for _, w := range []string{"v1", "00ff", "4", "12", "restored copy", "stock/1", aUUID, "stock@db", "idle"} {
		if code != ExitOK || !strings.Contains(out, w) {
			t.Errorf("%d, does not show %q:\n%s", code, w, out)
		}
	}
	if code, out, _ := run(t, env, "status", "--json"); code != ExitOK || !json.Valid([]byte(out)) {
		t.Errorf("%d, %s", code, out)
	}
}

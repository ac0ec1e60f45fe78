package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

// anyAdmin answers every call with the same bytes, or refuses it with the same status.
type anyAdmin struct {
	mu     sync.Mutex
	answer []byte
	refuse error
}

func (a *anyAdmin) set(answer []byte, refuse error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer, a.refuse = answer, refuse
}

func (a *anyAdmin) handle(_ any, s grpc.ServerStream) error {
	if err := s.RecvMsg(new(emptypb.Empty)); err != nil {
		return err
	}
	a.mu.Lock()
	m := new(emptypb.Empty) // what is sent is what it does not know
	m.ProtoReflect().SetUnknown(a.answer)
	refuse := a.refuse
	a.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	return s.SendMsg(m)
}

func newAnyAdmin(f *testing.F) (a *anyAdmin, address string) {
	f.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	a = &anyAdmin{}
	s := grpc.NewServer(grpc.UnknownServiceHandler(a.handle))
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	f.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			f.Error(err)
		}
	})
	return a, lis.Addr().String()
}

// outcome runs a command, and judges what has to hold for each.
func outcome(t *testing.T, asJSON bool, args ...string) {
	t.Helper()
	var out, errOut bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	code := Run(ctx, args, Streams{Out: &out, Err: &errOut, Environ: []string{"USER=me"}})
	odd := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%q does not end", args)
	case code < ExitOK || code > ExitUsage || code != ExitOK && errOut.Len() == 0:
		t.Fatalf("%q: code %d, and it says %q", args, code, errOut.String())
	case bytes.ContainsFunc(errOut.Bytes(), odd) || !asJSON && bytes.ContainsFunc(out.Bytes(), odd):
		t.Fatalf("%q writes to a terminal what is no text:\n%q\n%q", args, out.String(), errOut.String())
	case code == ExitOK && asJSON:
		for d := json.NewDecoder(&out); d.More(); {
			if err := d.Decode(new(any)); err != nil {
				t.Fatalf("%q: %v", args, err)
			}
		}
	}
}

// Whatever a coordinator answers, and whatever names, causes and errors of services are in
// it, a command ends, and writes text that does nothing to a terminal, or JSON.
func FuzzAnswers(f *testing.F) {
	a, address := newAnyAdmin(f)
	const id = anXID
	commands := [][]string{
		{"tx", "list"}, {"tx", "list", "--all"}, {"tx", "show", "--key", "k"}, {"tx", "commit", id}, {"tx", "rollback", id}, {"tx", "rollback", "--dry-run", id}, {"tx", "watch"},
		{"tx", "resolve", id, "--all", "--keep"}, {"tx", "retry", "--key", "k"}, {"tx", "abandon", "--key", "k"}, {"status"}, {"adopt", "--yes"},
	}
	const evil = "\x1b[2J\x07'\u202e\u009b$(x)\n\t\r\x00"
	tx := &handfastv1.Transaction{
		Xid: evil, Name: evil, Phase: handfastv1.Phase_PHASE_SETTLING, Outcome: handfastv1.Outcome_OUTCOME_ROLLED_BACK, RollbackCause: evil, ParentXid: evil, Key: evil, Attention: true,
		Branches: []*handfastv1.Branch{{BranchId: evil, ResourceId: evil, Name: evil, VoteReason: evil, Vote: handfastv1.Vote_VOTE_NO, Forward: &handfastv1.Progress{LastError: evil},
			Plan: &handfastv1.Plan{Forward: &handfastv1.Action{Handler: evil, HandlerGroup: evil}, Rollback: &handfastv1.Action{Url: evil}}}},
		Settlements: []*handfastv1.Settlement{{ResourceId: evil, LastError: evil}, {BranchId: evil, Op: handfastv1.Op_OP_ROLLBACK, LastError: evil}},
	}
	text := evil
	diff := &handfastv1.RowsToSettle{ResourceId: evil, Total: 9, Contradictions: 1, Undecided: 1, Rows: []*handfastv1.RowDiff{{
		Table: evil, KeyColumns: []string{evil}, Key: []string{evil, evil}, Contradicts: true, Before: true, After: true, Now: true, Seen: evil,
		Columns: []*handfastv1.ColumnDiff{{Name: evil, Before: &handfastv1.Image{Text: &text}, Now: &handfastv1.Image{Text: &text, Cut: true}}},
		Choice:  &handfastv1.RowChoice{Choice: handfastv1.Choice_CHOICE_EDIT, Operator: evil, Why: evil, Stale: true, Values: []*handfastv1.ColumnValue{{Column: evil, Text: &text}}},
	}, {Table: evil, Problem: evil}}}
	for n, m := range []proto.Message{
		&handfastv1.ListResponse{Transactions: []*handfastv1.Transaction{tx}, NextPageToken: evil}, &handfastv1.ListResponse{NextPageToken: evil}, &handfastv1.GetResponse{Transaction: tx},
		&handfastv1.CommitResponse{Outcome: handfastv1.Outcome_OUTCOME_ROLLED_BACK, RollbackCause: evil}, &handfastv1.RollbackResponse{Outcome: 99}, &handfastv1.DiffResponse{Resources: []*handfastv1.RowsToSettle{diff, {Error: evil}}},
		&handfastv1.WatchEvent{Transaction: tx, Missed: 3}, &handfastv1.ResolveResponse{Chosen: -1, Rows: diff}, &handfastv1.GetResponse{Transaction: tx}, &handfastv1.GetResponse{Transaction: tx},
		&handfastv1.StatusResponse{Version: evil, StoreId: evil, Quarantined: true, QuarantineReason: evil, HeldBytesLimit: 1, Clients: []*handfastv1.AttachedClient{{Name: evil, Resources: []*handfastv1.AttachedResource{{ResourceId: evil, Name: evil}}}}},
		&handfastv1.AdoptResponse{},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for _, asJSON := range []bool{false, true} {
			f.Add(uint8(n), uint8(codes.OK), "", asJSON, b)
		}
		f.Add(uint8(n), uint8(codes.Aborted), evil, false, b)
		f.Add(uint8(n), uint8(codes.Unavailable), evil, false, []byte{})
	}
	f.Fuzz(func(t *testing.T, n, code uint8, message string, asJSON bool, answer []byte) {
		args := slices.Clone(commands[int(n)%len(commands)])
		asJSON = asJSON && slices.Contains([]string{"list", "show", "watch", "status", "--dry-run"}, args[min(len(args)-1, max(1, slices.Index(args, "--dry-run")))%len(args)])
		if asJSON {
			args = append(args, "--json")
		}
		var refuse error
		if c := codes.Code(code % 17); c != codes.OK {
			st := status.New(c, strings.ToValidUTF8(message, "?"))
			if code >= 128 {
				st, _ = st.WithDetails(&errdetails.ErrorInfo{Domain: "handfast", Reason: strings.ToValidUTF8(message, "?")})
			}
			refuse = st.Err()
		}
		a.set(answer, refuse)
		outcome(t, asJSON, append(args, "--server", address)...)
	})
}

// Whatever arguments a command is given, it says what is wrong, or asks a coordinator.
func FuzzArguments(f *testing.F) {
	a, address := newAnyAdmin(f)
	const id = anXID
	for _, s := range []string{
		"list\n--phase\nsettling,active\n--outcome\nrolled-back\n--since\n10m\n--until\n2026-01-31T08:00:00Z\n--limit\n5", "list\n--since\n-5m", "list\n--since\n9999999d", "list\n--until\n0001-01-01T00:00:00Z",
		"list\n--limit\n-1\n--resource\nx", "list\n--name\n" + strings.Repeat("x", 300), "show\n" + id, "show\n--key\n", "show\n" + id + "\n--rows\n0", "commit\n" + id + "\n--operator\n\x1b",
		"rollback\n" + id + "\n--cause\n" + strings.Repeat("x", 2000), "resolve\n" + id + "\n--table\nt\n--key\n1\n--edit\na=b\n--null\nc", "resolve\n" + id + "\n--all\n--keep\n--restore", "resolve\n" + id + "\n--edit\n=",
		"watch\nx", "retry\n--key\nk\n--timeout\n0", "abandon\n" + id + "\n--timeout\n1e9h", "list\n--tls-cert\nx", "list\n--tls-ca\n\x00", "-h", "help\nlist", "nothing\n\x1b]0;x\x07", "list\n--\x1b", "list\n-", "list\n--phase\n\u202e", "list\n--phase\n\"",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := []string{"tx"}
		for _, s := range strings.Split(line, "\n") {
			if s != "--" && s != "demo" { // what comes behind would be no flag
				args = append(args, s)
			}
		}
		a.set(nil, nil)
		outcome(t, false, append(args, "--server="+address)...)
	})
}

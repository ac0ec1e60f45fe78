package client

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

const opWaitFor = "WaitFor"

// maxText bounds causes and reasons in words.
const maxText = 1024

// Begin asks for a new transaction. Sent again after a broken session it may
// make two; the one that nobody knows of ends by its deadline.
func (c *Client) Begin(ctx context.Context, r *pb.BeginRequest) (*pb.BeginResponse, error) {
	f, err := c.do(ctx, "Begin", &pb.ClientFrame{Kind: &pb.ClientFrame_Begin{Begin: r}})
	return answer("Begin", f, err, (*pb.ServerFrame).GetBegin)
}

// RegisterBranch returns when the registration is durable, which has to be
// before the branch's local commit.
func (c *Client) RegisterBranch(ctx context.Context, r *pb.RegisterBranchRequest) (*pb.RegisterBranchResponse, error) {
	f, err := c.do(ctx, "RegisterBranch", &pb.ClientFrame{Kind: &pb.ClientFrame_RegisterBranch{RegisterBranch: r}})
	a, err := answer("RegisterBranch", f, err, (*pb.ServerFrame).GetRegisterBranch)
	c.observe(a.GetWitness())
	return a, err
}

// Submit registers branches, all or none, and asks to commit for good: from its
// answer on nobody needs to ask again, whatever becomes of this process. Sent again
// after a broken session it changes nothing, and neither does calling it again with
// the same request: branch ids have to be the same then, too.
func (c *Client) Submit(ctx context.Context, r *pb.SubmitRequest) (*pb.SubmitResponse, error) {
	f, err := c.do(ctx, "Submit", &pb.ClientFrame{Kind: &pb.ClientFrame_Submit{Submit: r}})
	return answer("Submit", f, err, (*pb.ServerFrame).GetSubmit)
}

// Vote reports how phase one of a branch ended. The first vote counts.
func (c *Client) Vote(ctx context.Context, r *pb.VoteRequest) (*pb.VoteResponse, error) {
	if t := clean(r.GetReason()); t != r.GetReason() {
		r = proto.CloneOf(r)
		r.Reason = t
	}
	f, err := c.do(ctx, "Vote", &pb.ClientFrame{Kind: &pb.ClientFrame_Vote{Vote: r}})
	return answer("Vote", f, err, (*pb.ServerFrame).GetVote)
}

// Commit asks for the decision to commit. The answer may be that it was rolled
// back. An *InterruptedError tells by Sent whether the outcome is unknown.
func (c *Client) Commit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	f, err := c.do(ctx, "Commit", &pb.ClientFrame{Kind: &pb.ClientFrame_Commit{Commit: r}})
	return answer("Commit", f, err, (*pb.ServerFrame).GetCommit)
}

// Rollback asks for the decision to roll back.
func (c *Client) Rollback(ctx context.Context, r *pb.RollbackRequest) (*pb.RollbackResponse, error) {
	if t := clean(r.GetCause()); t != r.GetCause() {
		r = proto.CloneOf(r)
		r.Cause = t
	}
	f, err := c.do(ctx, "Rollback", &pb.ClientFrame{Kind: &pb.ClientFrame_Rollback{Rollback: r}})
	return answer("Rollback", f, err, (*pb.ServerFrame).GetRollback)
}

// Get asks what is known of a transaction.
func (c *Client) Get(ctx context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	f, err := c.do(ctx, "Get", &pb.ClientFrame{Kind: &pb.ClientFrame_Get{Get: r}})
	return answer("Get", f, err, (*pb.ServerFrame).GetGet)
}

// WaitFor waits, for as long as the request says, until a transaction is
// decided and, if the request names a resource, settled there. After a broken
// session the time starts anew. When ctx ends the wait is taken back.
func (c *Client) WaitFor(ctx context.Context, r *pb.WaitForRequest) (*pb.WaitForResponse, error) {
	f, err := c.do(ctx, opWaitFor, &pb.ClientFrame{Kind: &pb.ClientFrame_WaitFor{WaitFor: r}})
	return answer(opWaitFor, f, err, (*pb.ServerFrame).GetWaitFor)
}

// answer picks the answer out of a frame.
func answer[T any](op string, f *pb.ServerFrame, err error, get func(*pb.ServerFrame) *T) (*T, error) {
	if err != nil {
		return nil, err
	}
	if e := f.GetError(); e != nil {
		return nil, fromWire(e)
	}
	if a := get(f); a != nil {
		return a, nil
	}
	return nil, &Error{Code: codes.Internal, Message: fmt.Sprintf("%s: the coordinator's answer is of another kind (%T)", op, f.GetKind())}
}

// clean makes a text fit to be sent: valid UTF-8 and not too long. It never
// cuts through a character.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

package tcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// ErrNoTransaction is a Call with a context that carries no XID.
var ErrNoTransaction = errors.New("the context belongs to no transaction; call it inside of tm.Manager.Do")

// Branch says what the coordinator calls once the transaction is decided. In a payload,
// "${own}" stands for the result of Try; handlers find it in Call.Own.
type Branch struct {
	Name    string        // for people: letters, digits, "_" and "-"; may be empty
	Confirm target.Target // after a commit; none where there is nothing to confirm
	Cancel  target.Target // after a rollback, also where Try was refused
	Retry   target.RetryPolicy
}

// Try reserves, in another service or here, and gives a result of at most
// client.MaxResult bytes. ctx carries no XID, because what Try does is confirmed and
// cancelled, not undone; id is what it sends along instead, with id.Set for HTTP and
// id.Outgoing for gRPC. An error that Is target.ErrFailed says that it had no effect.
type Try func(ctx context.Context, id target.Identity) ([]byte, error)

// Call registers a branch in the transaction of ctx, calls try, and votes. It gives the
// result of try. It may be called concurrently, and each call is another branch.
//
// After an error the transaction should be rolled back, which tm.Manager.Do does when
// its function returns it, and Cancel is called, whatever the error was. Where try failed
// for good the vote is no: the transaction can't commit any more.
//
// Errors: ErrNoTransaction; *target.Error; those of tm.Manager.Register and Vote, such
// as tm.ErrRolledBack; that of try.
func Call(ctx context.Context, m *tm.Manager, b Branch, try Try) ([]byte, error) {
	id, ok := xid.FromContext(ctx)
	if !ok {
		return nil, fmt.Errorf("tcc %q: %w", b.Name, ErrNoTransaction)
	}
	if err := b.validate(); err != nil {
		return nil, fmt.Errorf("tcc %.40q: %w", b.Name, err)
	}
	who := target.Identity{XID: id, Branch: xid.NewBranchID(), Action: target.Forward, Attempt: 1}
	if err := m.Register(ctx, id, &pb.RegisterBranchRequest{
		BranchId: who.Branch.String(), Mode: pb.Mode_MODE_TCC, Name: b.Name,
		Plan: &pb.Plan{Commit: b.Confirm.Proto(), Rollback: b.Cancel.Proto(), Retry: b.Retry.Proto()},
	}); err != nil {
		return nil, err
	}
	result, err := try(xid.NewContext(ctx, xid.ID{}), who)
	vote := &pb.VoteRequest{BranchId: who.Branch.String(), Vote: pb.Vote_VOTE_YES, Result: result}
	switch {
	case errors.Is(err, target.ErrFailed):
		vote.Vote, vote.Reason, vote.Result = pb.Vote_VOTE_NO, err.Error(), nil
		// Not being able to say so delays the rollback, and Cancel comes without Try.
		return nil, errors.Join(err, m.Vote(ctx, id, vote))
	case err != nil:
		return nil, err // no vote: it may have happened
	case len(result) > client.MaxResult:
		return nil, fmt.Errorf("tcc %q: the result of Try is %d bytes long; want at most %d", b.Name, len(result), client.MaxResult)
	}
	if err := m.Vote(ctx, id, vote); err != nil {
		return nil, err
	}
	return result, nil
}

func (b *Branch) validate() error {
	if b.Name != "" {
		if err := target.CheckName(b.Name); err != nil {
			return err
		}
	}
	if b.Confirm.IsZero() && b.Cancel.IsZero() {
		return &target.Error{Field: "confirm", Text: "there is nothing to confirm and nothing to cancel; want a target for one of them"}
	}
	for _, x := range []struct {
		field string
		t     target.Target
	}{{"confirm", b.Confirm}, {"cancel", b.Cancel}} {
		if x.t.IsZero() {
			continue
		}
		if err := x.t.Validate(); err != nil {
			return &target.Error{Field: x.field, Text: err.Error()}
		}
	}
	return b.Retry.Validate()
}

// Post is a Try by HTTP: 2xx is done and its body the result, 409 failed for good, and
// after anything else, a redirect too, nobody knows. payload is what target.Payload takes. c may be nil
// for http.DefaultClient.
func Post(c *http.Client, url string, payload any) Try {
	if c == nil {
		c = http.DefaultClient
	}
	direct := *c
	// What follows a redirect is a GET, and its 200 no reservation.
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return func(ctx context.Context, id target.Identity) ([]byte, error) {
		body, err := target.Encode(payload)
		if err != nil {
			return nil, fmt.Errorf("try %s: %w: %w", url, err, target.ErrFailed)
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("try %s: %w: %w", url, err, target.ErrFailed)
		}
		r.Header.Set("Content-Type", "application/json")
		id.Set(r.Header)
		resp, err := direct.Do(r)
		if err != nil {
			return nil, fmt.Errorf("try: %w", err)
		}
		defer func() { _ = resp.Body.Close() }()
		result, err := io.ReadAll(io.LimitReader(resp.Body, client.MaxResult+1))
		why := bytes.TrimSpace(result) // http.Error ends it with a new line
		switch {
		case resp.StatusCode == http.StatusConflict:
			return nil, fmt.Errorf("try %s: %s: %.200s: %w", url, resp.Status, why, target.ErrFailed)
		case resp.StatusCode < 200 || resp.StatusCode > 299:
			return nil, fmt.Errorf("try %s: %s: %.200s", url, resp.Status, why)
		case err != nil:
			return nil, fmt.Errorf("try %s: %w", url, err)
		}
		return result, nil
	}
}

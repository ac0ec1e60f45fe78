package rm

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const (
	examineTimeout = 30 * time.Second
	examineRows    = 1000
	// examineBytes keeps an answer well below what fits into a message.
	examineBytes = 512 << 10
	examineRunes = 1024 // of one value
)

var _ client.Examiner = (*agent)(nil)

// Examine implements client.Examiner. It uses a connection of its own, so that
// what settles has never to wait for an operator.
func (a *agent) Examine(ctx context.Context, cmd *pb.Examine) *pb.ExamineResult {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	stop := context.AfterFunc(a.p.ctx, cancel)
	defer stop()
	s := newSettler(a)
	defer s.disconnect()
	r, err := s.examine(ctx, cmd)
	if err == nil {
		return r
	}
	p := examineError(err).GRPCStatus().Proto()
	return &pb.ExamineResult{Error: &pb.Error{Code: p.GetCode(), Message: p.GetMessage(), Details: p.GetDetails()}}
}

func (s *settler) examine(ctx context.Context, cmd *pb.Examine) (*pb.ExamineResult, error) {
	id, err := xid.Parse(cmd.GetXid())
	if err != nil {
		return nil, err
	}
	if cmd.GetChoose() != nil && cmd.GetOutcome() != pb.Outcome_OUTCOME_ROLLED_BACK {
		return nil, errors.New("the transaction is not decided to roll back, so nothing is chosen")
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	r := &pb.ExamineResult{}
	if c := cmd.GetChoose(); c != nil && c.GetAll() {
		n, err := undolog.ResolveAll(ctx, conn, id, wireChoice(c.GetChoice()), c.GetOperator(), c.GetWhy())
		if err != nil {
			return nil, err
		}
		r.Chosen = int64(n)
	} else if c != nil {
		if err := undolog.Resolve(ctx, conn, id, resolution(c)); err != nil {
			return nil, err
		}
		r.Chosen = 1
	}
	d, err := undolog.Diff(ctx, conn, id, undolog.DiffOptions{
		Rows: min(max(int(cmd.GetMaxRows()), 1), examineRows), ValueRunes: examineRunes, Bytes: examineBytes,
	})
	if err != nil {
		return nil, err
	}
	r.Rows = wireDifference(&d)
	return r, nil
}

func resolution(c *pb.ChooseRows) undolog.Resolution {
	r := undolog.Resolution{
		Table: c.GetTable(), Key: c.GetKey(), Choice: wireChoice(c.GetChoice()), Who: c.GetOperator(), Why: c.GetWhy(), Seen: c.GetSeen(),
	}
	for _, v := range c.GetValues() {
		r.Values = append(r.Values, undolog.Edit{Column: v.GetColumn(), Value: v.Text})
	}
	return r
}

// wireChoice gives a word that undolog refuses for what it does not know.
func wireChoice(c pb.Choice) undolog.Choice {
	return undolog.Choice(strings.ToLower(strings.TrimPrefix(c.String(), "CHOICE_")))
}

func choiceOnWire(c undolog.Choice) pb.Choice {
	return pb.Choice(pb.Choice_value["CHOICE_"+strings.ToUpper(string(c))])
}

// examineError tells the coordinator, and through it the operator, what is wrong.
func examineError(err error) *client.Error {
	e := &client.Error{Code: codes.Internal, Message: strings.ToValidUTF8(err.Error(), "?")}
	if c, ok := errors.AsType[*undolog.ChoiceError](err); ok {
		e.XID = c.XID
		switch {
		case errors.Is(c, undolog.ErrNothingToUndo):
			e.Code, e.Reason = codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_WRONG_STATE
		case errors.Is(c, undolog.ErrUnknownRow):
			e.Code, e.Reason = codes.NotFound, pb.ErrorReason_ERROR_REASON_UNKNOWN_ROW
		case errors.Is(c, undolog.ErrRowChanged):
			e.Code, e.Reason = codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_ROW_CHANGED
		default:
			e.Code, e.Reason, e.Field = codes.InvalidArgument, pb.ErrorReason_ERROR_REASON_INVALID_FIELD, fieldOf(c.Field)
			e.Message = e.Field + ": " + e.Message
		}
		return e
	}
	if m, ok := errors.AsType[*undolog.MisfitError](err); ok {
		e.Code, e.Reason, e.XID = codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_WRONG_STATE, m.XID
	} else if b, ok := errors.AsType[*undolog.BlockedError](err); ok {
		e.Code, e.Reason, e.XID = codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_WRONG_STATE, b.XID
	}
	return e
}

// fieldOf names the field of ChooseRows.
func fieldOf(f string) string {
	switch f {
	case "who":
		f = "operator"
	case "value", "column":
		f = "values"
	}
	return "choose." + f
}

func wireDifference(d *undolog.Difference) *pb.RowsToSettle {
	out := &pb.RowsToSettle{Total: int64(d.Total), Contradictions: int64(d.Contradictions), Undecided: int64(d.Undecided)}
	for i := range d.Rows {
		out.Rows = append(out.Rows, wireRow(&d.Rows[i]))
	}
	return out
}

func wireRow(r *undolog.RowDiff) *pb.RowDiff {
	w := &pb.RowDiff{
		Table: valid(r.Table), KeyColumns: allValid(r.KeyColumns), Key: allValid(r.Key), Before: r.Before, After: r.After, Now: r.Now,
		Contradicts: r.Contradicts, Problem: valid(r.Problem), Seen: r.Seen,
	}
	for _, c := range r.Columns {
		w.Columns = append(w.Columns, &pb.ColumnDiff{
			Name: valid(c.Name), Before: wireImage(c.Before), After: wireImage(c.After), Now: wireImage(c.Now), Contradicts: c.Contradicts,
		})
	}
	if c := r.Choice; c != nil {
		w.Choice = &pb.RowChoice{
			Choice: choiceOnWire(c.Choice), Operator: valid(c.Who), Why: valid(c.Why), Time: timestamppb.New(c.At), Stale: c.Stale, There: c.There,
		}
		for _, v := range c.Values {
			cv := &pb.ColumnValue{Column: valid(v.Column)}
			if v.Value != nil {
				text := valid(*v.Value)
				cv.Text = &text
			}
			w.Choice.Values = append(w.Choice.Values, cv)
		}
	}
	return w
}

func wireImage(i undolog.Image) *pb.Image {
	if i.Null {
		return &pb.Image{}
	}
	text := valid(i.Text)
	return &pb.Image{Text: &text, Cut: i.Cut}
}

// valid makes a text one that protobuf takes: a database in SQL_ASCII may hold others.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func allValid(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = valid(s)
	}
	return out
}

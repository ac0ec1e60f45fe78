package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
)

const (
	submitted = "submitted"

	ordersGroup = "orders"
	placing     = "place"
)

// impatient comes back soon to a service that was dead, since somebody watches.
var impatient = target.RetryPolicy{First: 20 * time.Millisecond, Max: 200 * time.Millisecond}

// reserved makes the order with TCC over plain HTTP; its own row is in AT mode.
func (o *orders) reserved(ctx context.Context, r *shopv1.PlaceRequest, out *shopv1.PlaceResponse) error {
	return o.within(ctx, r, out, func(ctx context.Context) error {
		if err := insert(ctx, o.db, r); err != nil {
			return err
		}
		if err := o.reserve(ctx, "stock", o.at.stock, amount{r.GetItem(), r.GetCount()}); err != nil {
			return err
		}
		return o.reserve(ctx, "accounts", o.at.accounts, amount{r.GetAccount(), r.GetAmount()})
	})
}

func (o *orders) reserve(ctx context.Context, name, addr string, a amount) error {
	_, err := tcc.Call(ctx, o.tm, tcc.Branch{
		Name:    name,
		Confirm: target.HTTP("http://"+addr+"/confirm", target.Payload(a)),
		Cancel:  target.HTTP("http://"+addr+"/cancel", target.Payload(a)),
		Retry:   impatient,
	}, tcc.Post(nil, "http://"+addr+"/reserve", a))
	return err
}

// saga hands the order over to the coordinator, which calls gRPC methods by their
// address. This process is not needed any more then, but for the last step.
func (o *orders) saga(ctx context.Context, r *shopv1.PlaceRequest, out *shopv1.PlaceResponse) error {
	take := &shopv1.TakeRequest{Item: r.GetItem(), Count: r.GetCount()}
	charge := &shopv1.ChargeRequest{Account: r.GetAccount(), Amount: r.GetAmount()}
	id, err := saga.New(orderName(r)).
		Step("stock", method(o.at.stock, shopv1.Stock_Take_FullMethodName, take), saga.Retry(impatient),
			saga.Compensate(method(o.at.stock, shopv1.Stock_PutBack_FullMethodName, take))).
		Step("accounts", method(o.at.accounts, shopv1.Accounts_Charge_FullMethodName, charge), saga.Retry(impatient),
			saga.Compensate(method(o.at.accounts, shopv1.Accounts_Refund_FullMethodName, charge))).
		Step("order", method(o.at.listen, shopv1.Orders_Write_FullMethodName, r), saga.Retry(impatient), saga.Pivot()).
		Submit(ctx, o.tm)
	out.Xid, out.Outcome = id.String(), submitted
	return err
}

// method is a gRPC method by its address, with an encoded request.
func method(addr, full string, request proto.Message) target.Target {
	b, err := proto.Marshal(request)
	if err != nil {
		panic(err) // a message of scalars is always encoded
	}
	return target.GRPC(addr+full, target.Payload(b))
}

// errNotCommitted: the local transaction that an order was has been rolled back.
var errNotCommitted = errors.New("the local transaction was rolled back")

// published writes the order in a plain local transaction, which carries the
// messages to the others along. The messages come first, so that what refuses the
// row finds them published.
func (o *orders) published(ctx context.Context, r *shopv1.PlaceRequest, _ *shopv1.PlaceResponse) error {
	tx, err := o.db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotCommitted, err)
	}
	defer tx.Rollback(ctx) //nolint:errcheck // does nothing after the commit
	err = rm.Publish(ctx, tx, o.message(o.at.stock, amount{r.GetItem(), r.GetCount()}), o.message(o.at.accounts, amount{r.GetAccount(), r.GetAmount()}))
	if err == nil {
		err = insert(ctx, tx, r)
	}
	if err == nil {
		err = o.gate.at(ctx, beforeCommit, "")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotCommitted, err)
	}
	err = tx.Commit(ctx)
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("%w: %w", errNotCommitted, err)
	}
	return err
}

func (o *orders) message(addr string, a amount) target.Target {
	return target.HTTP("http://"+addr+"/"+deliver, target.Payload(a))
}

// remembered has the order made by the workflow below, in whichever process of
// this service the coordinator calls.
func (o *orders) remembered(ctx context.Context, r *shopv1.PlaceRequest, out *shopv1.PlaceResponse) error {
	input, err := protojson.Marshal(r)
	if err != nil {
		return err
	}
	id, err := workflow.Start(ctx, o.tm, ordersGroup, placing, input, workflow.Retry(impatient), workflow.Options(tm.WithName(orderName(r))))
	out.Xid, out.Outcome = id.String(), submitted
	return err
}

// flow is the order as a Go function. Each of its steps is fenced where its effect
// is, with the identity that the step has in every run.
func (o *orders) flow(ctx context.Context, w *workflow.W, input []byte) ([]byte, error) {
	var r shopv1.PlaceRequest
	if err := protojson.Unmarshal(input, &r); err != nil {
		return nil, err
	}
	take := &shopv1.TakeRequest{Item: r.GetItem(), Count: r.GetCount()}
	charge := &shopv1.ChargeRequest{Account: r.GetAccount(), Amount: r.GetAmount()}
	for _, s := range []struct {
		name       string
		run        func(context.Context, workflow.StepCall) error
		compensate []workflow.StepOption
	}{
		{"stock", func(ctx context.Context, c workflow.StepCall) error {
			_, err := o.stock.Take(c.Outgoing(ctx), take)
			return err
		}, []workflow.StepOption{workflow.Compensate(method(o.at.stock, shopv1.Stock_PutBack_FullMethodName, take))}},
		{"accounts", func(ctx context.Context, c workflow.StepCall) error {
			_, err := o.accounts.Charge(c.Outgoing(ctx), charge)
			return err
		}, []workflow.StepOption{workflow.Compensate(method(o.at.accounts, shopv1.Accounts_Refund_FullMethodName, charge))}},
		{"order", func(ctx context.Context, c workflow.StepCall) error { return o.write(ctx, c, &r) }, nil},
	} {
		_, err := workflow.Step(ctx, w, s.name, func(ctx context.Context, c workflow.StepCall) (bool, error) {
			err := s.run(ctx, c)
			if status.Code(err) == codes.Aborted {
				err = fmt.Errorf("%w: %w", target.ErrFailed, err)
			}
			return err == nil, err
		}, s.compensate...)
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// shipping is the part of the price that a mixed order pays by a message.
const shipping = 10

// mixed makes one order in all modes that fit into one transaction: its row in AT,
// the price in XA, most items with TCC, the shipping by a message, and the last
// item as the step of a saga. Submitting the saga is what commits all of it.
func (o *orders) mixed(ctx context.Context, r *shopv1.PlaceRequest, out *shopv1.PlaceResponse) error {
	t, err := o.tm.Begin(ctx, tm.WithName(orderName(r)))
	if err != nil {
		return err
	}
	out.Xid = t.XID.String()
	if err := o.mixture(t.Context(ctx), r); err != nil {
		if err := o.tm.Rollback(ctx, t, err); err != nil {
			return err
		}
		return &tm.RolledBackError{XID: t.XID, Cause: err}
	}
	if err := o.gate.at(ctx, beforeCommit, out.GetXid()); err != nil {
		return err
	}
	one := &shopv1.TakeRequest{Item: r.GetItem(), Count: 1}
	if err := saga.New("last item").
		Step("stock", method(o.at.stock, shopv1.Stock_Take_FullMethodName, one), saga.Retry(impatient),
			saga.Compensate(method(o.at.stock, shopv1.Stock_PutBack_FullMethodName, one))).
		SubmitAs(ctx, o.tm, t); err != nil {
		return err
	}
	return o.tm.Wait(ctx, t.XID)
}

func (o *orders) mixture(ctx context.Context, r *shopv1.PlaceRequest) error {
	err := pgx.BeginFunc(ctx, o.db, func(tx pgx.Tx) error {
		if err := insert(ctx, tx, r); err != nil {
			return err
		}
		return rm.Publish(ctx, tx, o.message(o.at.accounts, amount{r.GetAccount(), shipping}))
	})
	if err != nil {
		return err
	}
	price := &shopv1.ChargeRequest{Account: r.GetAccount(), Amount: r.GetAmount() - shipping, Prepare: true}
	if _, err := o.accounts.Charge(ctx, price); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	return o.reserve(ctx, "stock", o.at.stock, amount{r.GetItem(), r.GetCount() - 1})
}

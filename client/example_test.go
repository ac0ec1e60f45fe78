package client_test

import (
	"context"
	"fmt"
	"time"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// Most programs use packages tm and rm. This is what lies below them.
func ExampleDial() {
	c, err := client.Dial("localhost:4263", client.WithName("report/1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()

	// Requests wait for the coordinator for as long as their context lives.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	tx, err := c.Begin(ctx, &pb.BeginRequest{Name: "report"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("began", tx.GetXid())
}

// database settles what is decided. Package rm has the one for Postgres.
type database struct{}

func (database) Settle(_ context.Context, cmd *pb.Settle, answer func(*pb.SettleResult)) {
	for _, i := range cmd.GetItems() {
		// Carry out i.Outcome durably, then say so. What is not answered comes again.
		answer(&pb.SettleResult{Items: []*pb.SettleItemResult{{Xid: i.GetXid(), Outcome: i.GetOutcome(), Done: true}}})
	}
}

func (database) AskVotes(_ context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult)) {
	for _, i := range cmd.GetItems() {
		answer(&pb.AskVotesResult{Items: []*pb.AskItemResult{{Xid: i.GetXid(), BranchId: i.GetBranchId(), Vote: pb.Vote_VOTE_OPEN}}})
	}
}

// A participant attaches once; the client does so again on every new session.
func ExampleClient_Attach() {
	c, err := client.Dial("localhost:4263")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	detach, err := c.Attach(&pb.AttachedResource{
		ResourceId: "123e4567-e89b-12d3-a456-426614174000", Name: "stock on db1",
	}, database{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer detach()
}

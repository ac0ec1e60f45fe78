package xidgrpc_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidgrpc"
)

// stock stands for a service of yours.
type stock struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (stock) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	id, ok := xid.FromContext(ctx)
	fmt.Println("the handler runs under", id, ok)
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

// Both ends of a call between two services.
func Example() {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(xidgrpc.ServerOptions()...)
	grpc_health_v1.RegisterHealthServer(srv, stock{})
	go func() { _ = srv.Serve(lis) }()
	defer srv.Stop()

	opts := append(xidgrpc.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	cc, err := grpc.NewClient(lis.Addr().String(), opts...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = cc.Close() }()

	// tm.Do does this for you.
	ctx := xid.NewContext(context.Background(), xid.New(xid.Parts{Begin: time.UnixMilli(0), Incarnation: 1, Counter: 1}))
	if _, err := grpc_health_v1.NewHealthClient(cc).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		fmt.Println(err)
	}
	// Output: the handler runs under 00000000000000010000000000000000000020000000000000000000 true
}

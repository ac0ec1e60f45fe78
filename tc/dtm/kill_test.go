package dtm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/dtm"
)

// asCoordinator makes this program a coordinator over the directory it names. It writes
// where it listens to its standard output.
const asCoordinator = "HANDFAST_DTM_TEST_DIR"

func beCoordinator(dir string) error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := tc.NewServer(context.Background(), tc.Config{
		Listener: lis, StoreDir: dir, Log: slog.New(slog.DiscardHandler), DTM: &dtm.Config{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0"},
	})
	if err != nil {
		return err
	}
	_, err = fmt.Println(s.DTM().HTTPAddr(), s.DTM().GRPCAddr())
	return errors.Join(err, os.Stdout.Close(), s.Serve(context.Background()))
}

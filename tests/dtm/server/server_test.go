package server_test

import (
	"os"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"

	"github.com/handfast/handfast/tests/dtm/server"
)

func TestMain(m *testing.M) { os.Exit(server.Run(m)) }

func TestServerAnswersUnderItsOldAddressesAfterARestart(t *testing.T) {
	t.Parallel()
	s := server.Start(t)
	before := s.PID()
	for _, again := range []func(){s.Restart, func() { s.Kill(); s.Restart() }, func() { s.Stop(); s.Restart() }} {
		if dtmcli.MustGenGid(s.HTTP) == "" || dtmgrpc.MustGenGid(s.GRPC) == "" {
			t.Fatal("no gid")
		}
		again()
		if after := s.PID(); after == 0 || after == before {
			t.Fatalf("process %d after the restart, %d before", after, before)
		}
	}
	s.Kill()
	if s.PID() != 0 {
		t.Fatal("a killed server has a process")
	}
}

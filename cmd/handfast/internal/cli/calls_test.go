package cli

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/handfast/handfast/cmd/handfast/internal/config"
	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// deliver submits a message to a URL, and gives the transaction once it is delivered
// or its first attempt has failed.
func (d *running) deliver(t *testing.T, url string) *handfastv1.Transaction {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := handfastv1.NewCoordinatorClient(conn)
	begun, err := c.Begin(t.Context(), &handfastv1.BeginRequest{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := handfastv1.NewAdminClient(conn).Watch(t.Context(), &handfastv1.WatchRequest{Xid: begun.GetXid()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Submit(t.Context(), &handfastv1.SubmitRequest{Xid: begun.GetXid(), Branches: []*handfastv1.RegisterBranchRequest{{
		BranchId: xid.NewBranchID().String(), Mode: handfastv1.Mode_MODE_MESSAGE, Vote: handfastv1.Vote_VOTE_YES,
		Plan: &handfastv1.Plan{Commit: &handfastv1.Action{Url: url}},
	}}}); err != nil {
		t.Fatal(err)
	}
	for {
		ev, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		tx := ev.GetTransaction()
		if tx.GetPhase() == handfastv1.Phase_PHASE_FINISHED || len(tx.GetSettlements()) > 0 && tx.GetSettlements()[0].GetLastError() != "" {
			return tx
		}
	}
}

func wantDelivered(t *testing.T, tx *handfastv1.Transaction, want bool, why string) {
	t.Helper()
	if got := tx.GetPhase() == handfastv1.Phase_PHASE_FINISHED; got != want {
		t.Errorf("delivered: %t, want %t: %s", got, want, tx)
	}
	if !want && (!strings.Contains(tx.GetSettlements()[0].GetLastError(), why) || !tx.GetAttention()) {
		t.Errorf("it does not say %q, or needs no attention: %s", why, tx)
	}
}

func TestTheCoordinatorCallsOnlyWhatItMay(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(srv.Close)
	for name, tc := range map[string]struct {
		args []string
		want bool
	}{
		"by default":               {nil, true},
		"allowed":                  {[]string{"--call-allow", "shop.example, 127.0.0.1"}, true},
		"not allowed":              {[]string{"--call-allow", "shop.example"}, false},
		"denied":                   {[]string{"--call-deny", "127.0.0.0/8"}, false},
		"allowed by name, denied":  {[]string{"--call-allow", "127.0.0.1", "--call-deny", "127.0.0.0/8"}, false},
		"others are denied":        {[]string{"--call-deny", "10.0.0.0/8"}, true},
		"link-local is no licence": {[]string{"--call-link-local", "--call-deny", "127.0.0.1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantDelivered(t, startDev(t, tc.args...).deliver(t, srv.URL), tc.want, "not allowed")
		})
	}
}

func TestTheCoordinatorTrustsAndShowsTheCertificatesOfItsSettings(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t)
	stranger, _ := selfSigned(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "who are you?", http.StatusForbidden)
		}
	})
	srv.StartTLS()
	t.Cleanup(srv.Close)
	for name, tc := range map[string]struct {
		args []string
		want bool
		why  string
	}{
		"both":                 {[]string{"--call-tls-ca", cert, "--call-tls-cert", cert, "--call-tls-key", key}, true, ""},
		"none shown":           {[]string{"--call-tls-ca", cert}, false, "who are you?"},
		"stranger's authority": {[]string{"--call-tls-ca", stranger, "--call-tls-cert", cert, "--call-tls-key", key}, false, "certificate"},
		"system's authorities": {[]string{"--call-tls-cert", cert, "--call-tls-key", key}, false, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantDelivered(t, startDev(t, tc.args...).deliver(t, srv.URL), tc.want, tc.why)
		})
	}
}

func TestServerNamesTheSettingOfAFileThatItCantUse(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t)
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no authorities":   {[]string{"--call-tls-ca", t.TempDir() + "/none"}, "call-tls-ca"},
		"key, no cert":     {[]string{"--call-tls-ca", key}, "call-tls-ca"},
		"not a key":        {[]string{"--call-tls-cert", cert, "--call-tls-key", cert}, "call-tls-key"},
		"file is not read": {[]string{"--call-tls-cert", t.TempDir() + "/none", "--call-tls-key", key}, "call-tls-cert"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"server", "--listen", "127.0.0.1:0", "--store-dir", t.TempDir()}, tc.args...)
			if code, _, errOut := run(t, nil, args...); code != ExitFailure || !strings.Contains(errOut, tc.want) {
				t.Errorf("%d, %q; want %q", code, errOut, tc.want)
			}
		})
	}
}

func TestLimitsOfCallsAreThoseOfTheSettings(t *testing.T) {
	t.Parallel()
	conf, err := callConfig(config.Calls{Max: 11, MaxPerHost: 12, MaxWaiting: 13, DialTimeout: 2 * time.Second, LinkLocal: true})
	if err != nil || conf.Calls != 11 || conf.CallsPerHost != 12 || conf.WaitingPerHost != 13 || conf.DialTimeout != 2*time.Second || !conf.LinkLocal {
		t.Errorf("got %+v, %v", conf, err)
	}
	if conf.Allow != nil || conf.TLS != nil {
		t.Error("there are rules or certificates that nobody has set")
	}
}

func TestPayloadMemoryIsBoundedAndShown(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--payload-memory", "16MiB")
	c := d.coordinator(t)
	env := []string{"HANDFAST_SERVER=" + d.addr}
	var ids []string
	submit := func() error {
		begun, err := c.Begin(t.Context(), &handfastv1.BeginRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Submit(t.Context(), &handfastv1.SubmitRequest{Xid: begun.GetXid(), Branches: []*handfastv1.RegisterBranchRequest{{
			BranchId: xid.NewBranchID().String(), Mode: handfastv1.Mode_MODE_SAGA,
			// Nobody is attached who has this handler, so it stays open.
			Plan: &handfastv1.Plan{Forward: &handfastv1.Action{Handler: "h", HandlerResource: aUUID, Payload: make([]byte, 1<<20)}},
		}}})
		if err == nil {
			ids = append(ids, begun.GetXid())
		}
		return err
	}
	var err error
	for err == nil && len(ids) < 20 {
		err = submit()
	}
	if len(ids) != 13 || !strings.Contains(err.Error(), "try again") { // 7/8 of 16 MiB, and 14 are a little more
		t.Fatalf("%d were taken, then: %v", len(ids), err)
	}
	if code, out, _ := run(t, env, "status"); code != ExitOK || !strings.Contains(out, "13.0 MiB of 16.0 MiB") {
		t.Errorf("%d, %s", code, out)
	}
	if code, _, errOut := run(t, env, "tx", "rollback", ids[0]); code != ExitOK {
		t.Fatal(errOut)
	}
	if err := submit(); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

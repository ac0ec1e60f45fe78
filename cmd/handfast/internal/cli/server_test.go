package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

// running is a coordinator that a command runs in this process.
type running struct {
	addr  string
	store string
	stop  context.CancelFunc
	code  chan int
	err   *bytes.Buffer // to be read after the end
}

var banner = regexp.MustCompile(`Coordinator at (\S+); its store (\S+) is removed`)

// startDev runs "handfast dev" until the test ends.
func startDev(t *testing.T, args ...string) *running {
	t.Helper()
	d, said := startDevReading(t, args...)
	go func() {
		for range said { // or it can't write any more
		}
	}()
	return d
}

// startDevReading is startDev that gives what it says after its first line. All of it has
// to be read.
func startDevReading(t *testing.T, args ...string) (*running, <-chan string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	d := &running{stop: cancel, code: make(chan int, 1), err: &bytes.Buffer{}}
	go func() {
		d.code <- Run(ctx, append([]string{"dev", "--listen", "127.0.0.1:0"}, args...), Streams{Out: w, Err: d.err})
		_ = w.Close()
	}()
	t.Cleanup(func() {
		cancel()
		go func() { _, _ = io.Copy(io.Discard, r) }()
		if code, open := <-d.code; open && code != ExitOK {
			t.Errorf("dev ended with %d: %s", code, d.err)
		}
	})
	lines := bufio.NewReader(r)
	first, err := lines.ReadString('\n')
	m := banner.FindStringSubmatch(first)
	if err != nil || m == nil {
		t.Fatalf("dev said %q, %v", first, err)
	}
	d.addr, d.store = m[1], m[2]
	said := make(chan string)
	go func() {
		defer close(said)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			said <- line
		}
	}()
	return d, said
}

func (d *running) coordinator(t *testing.T) handfastv1.CoordinatorClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return handfastv1.NewCoordinatorClient(conn)
}

func TestDevRemovesItsStoreAtTheEnd(t *testing.T) {
	t.Parallel()
	d := startDev(t)
	if _, err := os.Stat(d.store); err != nil {
		t.Fatal(err)
	}
	d.stop()
	code := <-d.code
	close(d.code)
	if code != ExitOK {
		t.Errorf("exit code %d: %s", code, d.err)
	}
	if _, err := os.Stat(d.store); !os.IsNotExist(err) {
		t.Errorf("the store is still there: %v", err)
	}
}

func TestOperatorCommandsOnARealCoordinator(t *testing.T) {
	t.Parallel()
	d := startDev(t)
	tc := d.coordinator(t)
	begin := func(name string) string {
		resp, err := tc.Begin(t.Context(), &handfastv1.BeginRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetXid()
	}
	env := []string{"HANDFAST_SERVER=" + d.addr}
	one, two := begin("order/one"), begin("order/two")
	begin("other")

	code, out, errOut := run(t, env, "tx", "list", "--name", "order/", "--phase", "active", "--since", "1h")
	if code != ExitOK || strings.Count(out, "\n") != 3 || strings.Index(out, two) > strings.Index(out, one) {
		t.Errorf("list: %d, %s%s", code, out, errOut)
	}
	if code, out, _ := run(t, env, "tx", "list", "--limit", "1", "--all", "--json"); code != ExitOK || strings.Count(out, `"xid":`) != 3 {
		t.Errorf("list --all: %d, %s", code, out)
	}
	if code, out, errOut := run(t, env, "tx", "rollback", one, "--cause", "by hand"); code != ExitOK || !strings.Contains(out, "rolled-back") {
		t.Errorf("rollback: %d, %s%s", code, out, errOut)
	}
	if code, _, errOut := run(t, env, "tx", "commit", one); code != ExitFailure || !strings.Contains(errOut, "by hand") {
		t.Errorf("commit of a rolled back transaction: %d, %s", code, errOut)
	}
	if code, out, errOut := run(t, env, "tx", "commit", two); code != ExitOK || !strings.Contains(out, "committed") {
		t.Errorf("commit: %d, %s%s", code, out, errOut)
	}
	if code, _, errOut := run(t, env, "tx", "rollback", two); code != ExitFailure || !strings.Contains(errOut, "COMMITTED") {
		t.Errorf("rollback of a committed transaction: %d, %s", code, errOut)
	}
	if code, out, _ := run(t, env, "tx", "show", one); code != ExitOK || !strings.Contains(out, "operator") || !strings.Contains(out, "by hand") {
		t.Errorf("show: %d, %s", code, out)
	}
	if code, out, _ := run(t, env, "tx", "watch", one); code != ExitOK || !strings.Contains(out, "finished") {
		t.Errorf("watch of a finished transaction: %d, %s", code, out)
	}
	if code, out, _ := run(t, env, "tx", "retry", one); code != ExitOK || !strings.Contains(out, "0 resources") {
		t.Errorf("retry: %d, %s", code, out)
	}
	if code, out, _ := run(t, env, "status", "--json"); code != ExitOK || !json.Valid([]byte(out)) || !strings.Contains(out, `"open_transactions": "1"`) {
		t.Errorf("status: %d, %s", code, out)
	}
	if code, _, errOut := run(t, env, "tx", "show", anXID); code != ExitFailure || !strings.Contains(errOut, "FOREIGN_STORE") {
		t.Errorf("show of a foreign XID: %d, %s", code, errOut)
	}
	if code, _, errOut := run(t, env, "tx", "list", "--page", "nonsense"); code != ExitFailure || !strings.Contains(errOut, "page") {
		t.Errorf("bad page: %d, %s", code, errOut)
	}
}

func TestSecondCoordinatorOnAStoreIsRefused(t *testing.T) {
	t.Parallel()
	d := startDev(t)
	code, _, errOut := run(t, nil, "server", "--listen", "127.0.0.1:0", "--store-dir", d.store)
	if code != ExitFailure || !strings.Contains(errOut, "in use by another process") || !strings.Contains(errOut, d.store) {
		t.Errorf("%d, %q", code, errOut)
	}
	code, _, errOut = run(t, nil, "server", "--listen", d.addr, "--store-dir", t.TempDir())
	if code != ExitFailure || !strings.Contains(errOut, d.addr) || !strings.Contains(errOut, "--listen") {
		t.Errorf("%d, %q", code, errOut)
	}
}

func TestServerRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "notes")
	if err := os.MkdirAll(other, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{filepath.Join(other, "todo.txt"), filepath.Join(dir, "bad.yaml")} {
		if err := os.WriteFile(f, []byte("stor-dir: x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		args []string
		env  string
		code int
		want string
	}{
		"unknown key":       {[]string{"--config", filepath.Join(dir, "bad.yaml")}, "", ExitUsage, "stor-dir"},
		"no file":           {[]string{"--config", filepath.Join(dir, "none.yaml")}, "", ExitUsage, "no such file"},
		"file from env":     {nil, "HANDFAST_CONFIG=" + filepath.Join(dir, "none.yaml"), ExitUsage, "no such file"},
		"bad variable":      {nil, "HANDFAST_RETENTION=1", ExitUsage, "HANDFAST_RETENTION"},
		"no such point":     {nil, "HANDFAST_CRASH_POINT=lunch", ExitUsage, "after-decision"},
		"no such time":      {nil, "HANDFAST_CRASH_POINT=after-force:0", ExitUsage, "number from 1"},
		"no such cert":      {[]string{"--tls-cert", dir + "/c", "--tls-key", dir + "/k"}, "", ExitFailure, "tls-cert"},
		"somebody's folder": {[]string{"--store-dir", other}, "", ExitFailure, "not a handfast store"},
		"a file":            {[]string{"--store-dir", filepath.Join(dir, "bad.yaml")}, "", ExitFailure, "bad.yaml"},
		"no such address":   {[]string{"--listen", "192.0.2.1:4263"}, "", ExitFailure, "192.0.2.1:4263"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"server", "--listen", "127.0.0.1:0", "--store-dir", t.TempDir()}, tc.args...)
			code, _, errOut := run(t, []string{tc.env}, args...)
			if code != tc.code || !strings.Contains(errOut, tc.want) {
				t.Errorf("%d, %q; want %d and %q", code, errOut, tc.code, tc.want)
			}
		})
	}
}

func TestPrintConfigStartsNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	code, out, _ := run(t, []string{"HANDFAST_SHARDS=3"}, "server", "--print-config", "--store-dir", dir)
	if code != ExitOK || !strings.Contains(out, "shards: 3") || !strings.Contains(out, "# HANDFAST_SHARDS") || !strings.Contains(out, "# --store-dir") {
		t.Errorf("%d, %s", code, out)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the store was made: %v", err)
	}
}

func TestTLSAsksForWhatItWasToldTo(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t)
	strangerCert, strangerKey := selfSigned(t)
	d := startDev(t, "--tls-cert", cert, "--tls-key", key, "--tls-ca", cert)
	env := []string{"HANDFAST_SERVER=" + d.addr}
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"right certificates":      {[]string{"--tls-ca", cert, "--tls-cert", cert, "--tls-key", key}, ExitOK},
		"no client certificate":   {[]string{"--tls-ca", cert}, ExitFailure},
		"a stranger's":            {[]string{"--tls-ca", cert, "--tls-cert", strangerCert, "--tls-key", strangerKey}, ExitFailure},
		"server is not trusted":   {[]string{"--tls-ca", strangerCert, "--tls-cert", cert, "--tls-key", key}, ExitFailure},
		"system does not know it": {[]string{"--tls"}, ExitFailure},
		"plain text":              {[]string{"--timeout", "3s"}, ExitFailure},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if code, _, errOut := run(t, env, append([]string{"status"}, tc.args...)...); code != tc.code {
				t.Errorf("exit code %d, want %d: %s", code, tc.code, errOut)
			}
		})
	}
}

// selfSigned makes a certificate for 127.0.0.1 that is its own authority.
func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "handfast test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

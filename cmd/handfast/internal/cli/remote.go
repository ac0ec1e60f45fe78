package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/cmd/handfast/internal/config"
	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

const defaultServer = "127.0.0.1:4263"

// remote is how a command reaches a coordinator.
type remote struct {
	streams Streams
	server  string
	tls     bool
	ca      string
	cert    string
	key     string
	timeout string
}

// newRemote adds the flags to cmd and all its subcommands.
func newRemote(s Streams, cmd *cobra.Command) *remote {
	r := &remote{streams: s}
	fs := cmd.PersistentFlags()
	fs.StringVar(&r.server, "server", "", "`host:port` of the coordinator (HANDFAST_SERVER, "+defaultServer+")")
	fs.BoolVar(&r.tls, "tls", false, "connect with TLS, trusting the system's authorities")
	fs.StringVar(&r.ca, "tls-ca", "", "PEM `file` of the authorities to trust; implies --tls (HANDFAST_TLS_CA)")
	fs.StringVar(&r.cert, "tls-cert", "", "PEM `file` of this client's certificate; implies --tls (HANDFAST_TLS_CERT)")
	fs.StringVar(&r.key, "tls-key", "", "PEM `file` of the key of --tls-cert (HANDFAST_TLS_KEY)")
	fs.StringVar(&r.timeout, "timeout", "10s", "how long to wait for an answer")
	return r
}

// dial connects, hands the client to fn and closes the connection. The
// context ends after --timeout unless the call streams.
func (r *remote) dial(ctx context.Context, stream bool, fn func(context.Context, handfastv1.AdminClient) error) error {
	timeout, err := config.ParseDuration(r.timeout)
	if err != nil || timeout <= 0 {
		return usagef("--timeout: %q is not a duration such as 10s", r.timeout)
	}
	for flag, p := range map[string]*string{"server": &r.server, "tls-ca": &r.ca, "tls-cert": &r.cert, "tls-key": &r.key} {
		if *p == "" {
			*p = r.streams.getenv(config.EnvName(flag))
		}
	}
	if r.server == "" {
		r.server = defaultServer
	}
	if _, port, err := net.SplitHostPort(r.server); err != nil || port == "" {
		return usagef("--server: %q is not host:port, such as %s", r.server, defaultServer)
	}
	creds, err := r.credentials()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+r.server, grpc.WithTransportCredentials(creds))
	if err != nil {
		return usagef("--server: %v", err)
	}
	if !stream {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err = r.explain(fn(ctx, handfastv1.NewAdminClient(conn)), timeout)
	return errors.Join(err, conn.Close())
}

func (r *remote) credentials() (credentials.TransportCredentials, error) {
	if !r.tls && r.ca == "" && r.cert == "" && r.key == "" {
		return insecure.NewCredentials(), nil
	}
	if (r.cert == "") != (r.key == "") {
		return nil, usagef("--tls-cert and --tls-key belong together: set both or none")
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.ca != "" {
		pool, err := certPool(r.ca)
		if err != nil {
			return nil, fmt.Errorf("--tls-ca: %w", err)
		}
		c.RootCAs = pool
	}
	if r.cert != "" {
		pair, err := tls.LoadX509KeyPair(r.cert, r.key)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c), nil
}

// explain turns a gRPC status into what a person at a terminal needs.
func (r *remote) explain(err error, timeout time.Duration) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	said := clean(st.Message()) // it may hold what services and databases say
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return &remoteError{reason: info.GetReason(), msg: said}
		}
	}
	switch st.Code() { //nolint:exhaustive // the other codes speak for themselves
	case codes.Unavailable:
		msg := said
		if _, cause, ok := strings.Cut(msg, `desc = "`); ok {
			msg = strings.TrimSuffix(cause, `"`)
		}
		return fmt.Errorf("no coordinator answers at %s (%s); is it running? --server names another", r.server, msg)
	case codes.DeadlineExceeded:
		return fmt.Errorf("the coordinator at %s did not answer within %s; --timeout gives it longer", r.server, timeout)
	case codes.Unimplemented:
		return fmt.Errorf("what answers at %s is not a Handfast coordinator of this version: %s", r.server, said)
	case codes.Canceled:
		return context.Canceled
	default:
		return errors.New(said)
	}
}

// remoteError is a request that the coordinator refused, with its reason.
type remoteError struct{ reason, msg string }

func (e *remoteError) Error() string { return e.msg + " (" + e.reason + ")" }

// operatorFlag names who acts; the coordinator keeps it with the decision.
func operatorFlag(cmd *cobra.Command, p *string) {
	cmd.Flags().StringVar(p, "operator", "", "who acts, kept with the decision (default: your login name)")
}

func operatorName(flag string) (string, error) {
	if len(flag) > 256 {
		return "", usagef("--operator: %d bytes long, at most 256 fit", len(flag))
	}
	if flag != "" {
		return flag, nil
	}
	name := "unknown user"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name[:min(len(name), 256)], nil
}

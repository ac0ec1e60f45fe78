package cli

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/handfast/handfast/cmd/handfast/internal/config"
)

// serverTLS reads the files that the settings name; nil when they name none.
// With authorities, every client must show a certificate of one of them.
func serverTLS(s config.Server) (*tls.Config, error) {
	if s.TLSCert == "" {
		return nil, nil //nolint:nilnil // no TLS is a valid answer
	}
	pair, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("tls-cert, tls-key: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if s.TLSCA == "" {
		return c, nil
	}
	if c.ClientCAs, err = certPool(s.TLSCA); err != nil {
		return nil, fmt.Errorf("tls-ca: %w", err)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c, nil
}

// callTLS reads the files for what the coordinator calls over TLS; nil when the
// settings name none.
func callTLS(s config.Calls) (*tls.Config, error) {
	if s.TLSCA == "" && s.TLSCert == "" {
		return nil, nil //nolint:nilnil // the defaults are a valid answer
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("call-tls-cert, call-tls-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if s.TLSCA != "" {
		var err error
		if c.RootCAs, err = certPool(s.TLSCA); err != nil {
			return nil, fmt.Errorf("call-tls-ca: %w", err)
		}
	}
	return c, nil
}

func certPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return pool, nil
}

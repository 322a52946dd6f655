package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// The names of files in a folder of certificates: those of libnbd, nbdkit and
// QEMU.
const (
	caFile         = "ca-cert.pem"
	clientCertFile = "client-cert.pem"
	clientKeyFile  = "client-key.pem"
)

// clientTLS is how a client speaks TLS with the server at a, nil when it does
// not.
func (a Address) clientTLS() (*tls.Config, error) {
	if !a.TLS {
		return nil, nil
	}
	cfg := &tls.Config{ServerName: a.serverName(), MinVersion: tls.VersionTLS12}
	if a.Certificates == "" {
		return cfg, nil
	}
	var err error
	if cfg.RootCAs, err = readPool(a.file(caFile)); err != nil {
		return nil, err
	}
	switch _, err := os.Stat(a.file(clientCertFile)); {
	case errors.Is(err, fs.ErrNotExist):
		return cfg, nil // the server may do without
	case err != nil:
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(a.file(clientCertFile), a.file(clientKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", a.file(clientCertFile), err)
	}
	cfg.Certificates = []tls.Certificate{cert}
	return cfg, nil
}

// ServerTLS is how a server speaks TLS: with the certificate and key of these
// PEM files, and, unless ca is "", only with clients that show a certificate
// signed by one of those in the file ca.
func ServerTLS(cert, key, ca string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", cert, err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if ca == "" {
		return cfg, nil
	}
	if cfg.ClientCAs, err = readPool(ca); err != nil {
		return nil, err
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg, nil
}

// readPool reads the certificates that are trusted.
func readPool(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificates to trust: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("read certificates to trust: %s holds none in PEM form", path)
	}
	return pool, nil
}

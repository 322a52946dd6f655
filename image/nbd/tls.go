package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
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
	trusted, err := readCertificates(a.file(caFile))
	if err != nil {
		return nil, err
	}
	cfg.RootCAs = pool(trusted)
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
	trusted, err := readCertificates(ca)
	if err != nil {
		return nil, err
	}
	cfg.ClientCAs, cfg.ClientAuth = pool(trusted), tls.RequireAndVerifyClientCert
	for _, c := range trusted {
		if c.PublicKeyAlgorithm == x509.RSA {
			// GnuTLS (QEMU, libnbd, nbdkit) then shows no certificate at all in TLS
			// 1.3: crypto/tls names RSA signatures of the old kind only in
			// signature_algorithms_cert, which GnuTLS 3.7 does not look at.
			cfg.MaxVersion = tls.VersionTLS12
		}
	}
	return cfg, nil
}

// readCertificates reads the certificates that are trusted.
func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificates to trust: %w", err)
	}
	var list []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read certificates to trust: %s: %w", path, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("read certificates to trust: %s holds none in PEM form", path)
	}
	return list, nil
}

func pool(list []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range list {
		p.AddCert(c)
	}
	return p
}

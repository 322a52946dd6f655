package ovf

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"

	// The algorithms that a manifest may name.
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"

	"hyper2kvm/formats"
)

// maxManifest bounds a manifest and a certificate, in bytes.
const maxManifest = 1 << 20

// ErrSignature says that a manifest is not what was signed.
var ErrSignature = errors.New("the signature is not that of the manifest")

// Digest is the digest of one file.
type Digest struct {
	File string
	Hash crypto.Hash
	Sum  []byte
}

// Manifest is the list of digests in a .mf file, in its order.
type Manifest []Digest

// digestLine is "SHA256(file.ovf)= 12ab…", with or without spaces (DSP0243
// 2.1.1, 10).
func digestLine() *regexp.Regexp {
	return regexp.MustCompile(`^\s*([A-Za-z0-9-]+)\s*\((.*)\)\s*=\s*([0-9A-Fa-f]+)\s*$`)
}

// ParseManifest reads a .mf file. A file may be listed more than once, under
// other algorithms.
func ParseManifest(text []byte) (Manifest, error) {
	if len(text) > maxManifest {
		return nil, fmt.Errorf("manifest of %d bytes, at most %d: %w", len(text), maxManifest, formats.ErrUnsupported)
	}
	m := Manifest{}
	pattern := digestLine()
	n := 0
	for l := range bytes.Lines(unmark(text)) {
		n++
		if len(bytes.TrimSpace(l)) == 0 {
			continue
		}
		d, err := parseDigest(pattern, string(bytes.TrimSpace(l)))
		if err != nil {
			return nil, fmt.Errorf("line %d of manifest: %w", n, err)
		}
		if len(m) >= maxFiles {
			return nil, fmt.Errorf("manifest of more than %d files: %w", maxFiles, formats.ErrUnsupported)
		}
		m = append(m, d)
	}
	return m, nil
}

func parseDigest(pattern *regexp.Regexp, text string) (Digest, error) {
	f := pattern.FindStringSubmatch(text)
	if f == nil {
		return Digest{}, fmt.Errorf("not a digest: %w", formats.ErrCorrupt)
	}
	hash, ok := map[string]crypto.Hash{
		"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512,
	}[strings.ReplaceAll(strings.ToLower(f[1]), "-", "")]
	if !ok {
		return Digest{}, fmt.Errorf("digest algorithm %q: %w", cut(f[1]), formats.ErrUnsupported)
	}
	sum, err := hex.DecodeString(f[3])
	if err != nil {
		return Digest{}, fmt.Errorf("digest of %q: %w: %w", cut(f[2]), err, formats.ErrCorrupt)
	}
	return Digest{File: f[2], Hash: hash, Sum: sum}, nil
}

// Of lists the digests of a file.
func (m Manifest) Of(file string) []Digest {
	var out []Digest
	for _, d := range m {
		if d.File == file {
			out = append(out, d)
		}
	}
	return out
}

// Certificate is what a .cert file has: a signature of the manifest, and whose
// it is.
type Certificate struct {
	// Signed names the manifest, the algorithm and the signature.
	Signed Digest
	// Chain begins with the signer's certificate.
	Chain []*x509.Certificate
}

// ParseCertificate reads a .cert file: a line like one of a manifest, with the
// signature in place of the digest, and certificates in PEM.
func ParseCertificate(text []byte) (*Certificate, error) {
	if len(text) > maxManifest {
		return nil, fmt.Errorf("certificate of %d bytes, at most %d: %w", len(text), maxManifest, formats.ErrUnsupported)
	}
	head, _, _ := bytes.Cut(bytes.TrimLeft(unmark(text), " \t\r\n"), []byte("\n"))
	signed, err := parseDigest(digestLine(), string(bytes.TrimSpace(head)))
	if err != nil {
		return nil, fmt.Errorf("signature in certificate: %w", err)
	}
	c := &Certificate{Signed: signed}
	for rest := text; len(c.Chain) < 16; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w: %w", err, formats.ErrCorrupt)
		}
		c.Chain = append(c.Chain, cert)
	}
	if len(c.Chain) == 0 {
		return nil, fmt.Errorf("no certificate in it: %w", formats.ErrCorrupt)
	}
	return c, nil
}

// Check checks the signature of the manifest. Whether its signer is to be
// trusted is another question. It is done with the key itself because x509
// refuses SHA-1, which ovftool signed with for a decade.
func (c *Certificate) Check(manifest []byte) error {
	h := c.Signed.Hash.New()
	h.Write(manifest)
	sum := h.Sum(nil)
	switch key := c.Chain[0].PublicKey.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(key, c.Signed.Hash, sum, c.Signed.Sum); err != nil {
			return fmt.Errorf("%w: %w", ErrSignature, err)
		}
		return nil
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, sum, c.Signed.Sum) {
			return ErrSignature
		}
		return nil
	}
	return fmt.Errorf("signature by a %s key: %w", c.Chain[0].PublicKeyAlgorithm, formats.ErrUnsupported)
}

package ovf_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/ovf"
)

func TestManifest(t *testing.T) {
	m, err := ovf.ParseManifest([]byte("SHA1(a b (c).ovf)= DA39a3ee5e6b4b0d3255bfef95601890afd80709\r\n\r\nSHA-256 (d.vmdk) = 00ff\nSHA512(d.vmdk)=01\n"))
	if err != nil || len(m) != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
	if m[0].File != "a b (c).ovf" || m[0].Hash != crypto.SHA1 || len(m[0].Sum) != 20 {
		t.Errorf("%+v", m[0])
	}
	if of := m.Of("d.vmdk"); len(of) != 2 || of[0].Hash != crypto.SHA256 || of[1].Hash != crypto.SHA512 {
		t.Errorf("%+v", of)
	}
	for text, want := range map[string]error{
		"hello": formats.ErrCorrupt, "MD5(x)= 00": formats.ErrUnsupported, "SHA1(x)= 0": formats.ErrCorrupt, "SHA1(x)= zz": formats.ErrCorrupt,
	} {
		if _, err := ovf.ParseManifest([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%q: %v; want %v", text, err, want)
		}
	}
}

// sealed gives a .cert file for a manifest, by a signer who vouches for himself.
func sealed(t testing.TB, key crypto.Signer, hash crypto.Hash, name string, manifest []byte) []byte {
	t.Helper()
	h := hash.New()
	h.Write(manifest)
	sum, err := key.Sign(rand.Reader, h.Sum(nil), hash)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tester"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, "%s(%s)= %x\n%s", name, "x.mf", sum, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestSignature(t *testing.T) {
	manifest := []byte("SHA256(x.ovf)= 00\n")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key  crypto.Signer
		hash crypto.Hash
		name string
	}{{rsaKey, crypto.SHA1, "SHA1"}, {rsaKey, crypto.SHA256, "SHA256"}, {rsaKey, crypto.SHA512, "SHA512"}, {ecKey, crypto.SHA256, "SHA256"}} {
		cert, err := ovf.ParseCertificate(sealed(t, c.key, c.hash, c.name, manifest))
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.Check(manifest); err != nil {
			t.Errorf("%T, %v: %v", c.key, c.hash, err)
		}
		if err := cert.Check([]byte("SHA256(x.ovf)= 01\n")); !errors.Is(err, ovf.ErrSignature) {
			t.Errorf("%T, %v, another manifest: %v", c.key, c.hash, err)
		}
	}
	for _, text := range []string{"", "SHA1(x.mf)= 00\n", "SHA1(x.mf)= 00\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := ovf.ParseCertificate([]byte(text)); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

package bundle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/ovf"
)

// The files are those of the manifest, whatever algorithm it names, in an
// archive and in a folder.
func TestManifest(t *testing.T) {
	text, disk := file("web01.ovf", web01("a.vmdk", "b.vmdk").OVF()), file("a.vmdk", stream(t, 1))
	other := file("b.vmdk", stream(t, 2))
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA512} {
		members := []formatstest.Member{text, file("web01.mf", sums(hash, text, disk, other)), disk, other}
		for _, path := range []string{packed(t, members...), put(t, members...)} {
			b, disks, err := opened(t, path, Policy{})
			if err != nil {
				t.Fatalf("%v: %v", hash, err)
			}
			var at, of int64
			if err := b.Verify(t.Context(), func(done, total int64) { at, of = done, total }); err != nil {
				t.Errorf("%v: %v", hash, err)
			}
			if want := int64(len(text.Content) + len(disk.Content) + len(other.Content)); b.Kind == "ova" && of != want || at != of {
				t.Errorf("%v: %d bytes of %d, want %d", hash, at, of, want)
			}
			if n := len(b.Warnings); n != 0 || b.Listed() < 2 || b.Signed() {
				t.Errorf("%v: %d listed, warnings %q", hash, b.Listed(), b.Warnings)
			}
			holds(t, disks, 1)
		}
	}
}

// A file that is another one than was listed is found: the descriptor at once,
// disks before their content is used.
func TestWrongDigest(t *testing.T) {
	text, disk := file("web01.ovf", web01("a.vmdk").OVF()), file("a.vmdk", stream(t, 1))
	forged := file("a.vmdk", bytes.Clone(disk.Content))
	forged.Content[len(forged.Content)/2] ^= 1
	raw, forgedRaw := file("a.vmdk", content(1)), file("a.vmdk", content(2))
	manifest := file("web01.mf", sums(crypto.SHA256, file("web01.ovf", web01("b.vmdk").OVF()), disk))
	for _, members := range [][]formatstest.Member{{text, manifest, disk}, {text, file("web01.mf", sums(crypto.SHA1, file("web01.ovf", nil))), disk}} {
		for _, path := range []string{packed(t, members...), put(t, members...)} {
			if _, err := Open(path, Policy{}); !errors.Is(err, ErrDigest) {
				t.Errorf("%s: another descriptor: %v", path, err)
			}
		}
	}
	manifest = file("web01.mf", sums(crypto.SHA256, text, raw))
	for _, path := range []string{packed(t, text, manifest, forgedRaw), put(t, text, manifest, forgedRaw)} {
		b, _, err := opened(t, path, Policy{})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Verify(t.Context(), discard); !errors.Is(err, ErrDigest) {
			t.Errorf("%s: another disk: %v", path, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Verify(ctx, discard); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: interrupted: %v", path, err)
		}
	}
	broken := packed(t, text, file("web01.mf", []byte("hello\n")), disk)
	if _, err := Open(broken, Policy{}); !errors.Is(err, ErrDescriptor) || !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("a manifest that is none: %v", err)
	}
}

// What a manifest does not list is said, and that there is none, too.
func TestNotListed(t *testing.T) {
	text, disk := file("web01.ovf", web01("a.vmdk").OVF()), file("a.vmdk", stream(t, 1))
	for _, c := range []struct {
		path, says string
	}{
		{packed(t, text, disk), "there is no manifest"},
		{put(t, text, disk), "there is no manifest"},
		{packed(t, text, file("web01.mf", sums(crypto.SHA256, text)), disk), "a.vmdk is not in the manifest"},
		{put(t, text, file("web01.mf", sums(crypto.SHA256, text)), disk), "a.vmdk is not in the manifest"},
		{packed(t, text, file("web01.mf", sums(crypto.SHA256, disk)), disk), "web01.ovf is not in the manifest"},
		{put(t, text, file("web01.mf", sums(crypto.SHA256, disk)), disk), "web01.ovf is not in the manifest"},
	} {
		b, disks, err := opened(t, c.path, Policy{})
		if err != nil {
			t.Fatal(err)
		}
		if !said(b, c.says) || len(b.Warnings) != 1 {
			t.Errorf("%s: warnings %q; want %q", c.path, b.Warnings, c.says)
		}
		if err := b.Verify(t.Context(), discard); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(copyOf(t, disks[0]), content(1)) {
			t.Errorf("%s: the disk reads differently", c.path)
		}
	}
}

// certificate signs a manifest by somebody who vouches for himself.
func certificate(t *testing.T, manifest []byte) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := crypto.SHA256.New()
	h.Write(manifest)
	signature, err := key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tester"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, "SHA256(web01.mf)= %x\n%s", signature, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestSigned(t *testing.T) {
	text, disk := file("web01.ovf", web01("a.vmdk").OVF()), file("a.vmdk", stream(t, 1))
	manifest := file("web01.mf", sums(crypto.SHA256, text, disk))
	cert := file("web01.cert", certificate(t, manifest.Content))
	part := file("web01.mf", sums(crypto.SHA256, text))
	noText := file("web01.mf", sums(crypto.SHA256, disk))
	for name, c := range map[string]struct {
		members []formatstest.Member
		want    error
	}{
		"signed":                  {[]formatstest.Member{text, manifest, cert, disk}, nil},
		"another manifest":        {[]formatstest.Member{text, file("web01.mf", sums(crypto.SHA1, text, disk)), cert, disk}, ovf.ErrSignature},
		"a disk more than signed": {[]formatstest.Member{text, part, file("web01.cert", certificate(t, part.Content)), disk}, ovf.ErrSignature},
		"descriptor not signed":   {[]formatstest.Member{text, noText, file("web01.cert", certificate(t, noText.Content)), disk}, ovf.ErrSignature},
		"no certificate":          {[]formatstest.Member{text, manifest, file("web01.cert", []byte("hello\n")), disk}, ErrDescriptor},
		"without its manifest":    {[]formatstest.Member{text, cert, disk}, ovf.ErrSignature},
	} {
		for _, path := range []string{packed(t, c.members...), put(t, c.members...)} {
			b, _, err := opened(t, path, Policy{})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v; want %v", name, err, c.want)
			}
			if c.want == nil && (!b.Signed() || !said(b, `signed by "CN=tester", whom this host does not trust`)) {
				t.Errorf("%s: warnings %q", name, b.Warnings)
			}
		}
	}
}

package bundle

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"slices"

	"hyper2kvm/formats"
	"hyper2kvm/formats/ovf"
)

// readManifest reads the manifest and checks its signature; "" is a name of none.
func (b *Bundle) readManifest(manifest, certificate string) error {
	text, err := b.readBeside(manifest)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := b.readBeside(certificate); err == nil {
			return fmt.Errorf("%s is there without the manifest that it signs: %w", certificate, ovf.ErrSignature)
		}
		b.warn("there is no manifest: whether the files are complete and unchanged cannot be known")
		return nil
	}
	if err != nil {
		return err
	}
	if b.manifest, err = ovf.ParseManifest(text); err != nil {
		return fmt.Errorf("%s: %w: %w", manifest, err, ErrDescriptor)
	}
	b.seals = []string{manifest, certificate}
	signature, err := b.readBeside(certificate)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := ovf.ParseCertificate(signature)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", certificate, err, ErrDescriptor)
	}
	if err := c.Check(text); err != nil {
		return fmt.Errorf("%s: %w", certificate, err)
	}
	b.signed = true
	b.trust(c)
	return nil
}

func (b *Bundle) readBeside(name string) ([]byte, error) {
	if name == "" {
		return nil, fs.ErrNotExist
	}
	f, err := b.folder.open(name)
	if err != nil {
		return nil, err
	}
	return readText(f)
}

// trust tells whose signature it is when this host does not know them.
func (b *Bundle) trust(c *ovf.Certificate) {
	between := x509.NewCertPool()
	for _, cert := range c.Chain[1:] {
		between.AddCert(cert)
	}
	_, err := c.Chain[0].Verify(x509.VerifyOptions{Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		b.warn("the manifest is signed by %q, whom this host does not trust: %v", c.Chain[0].Subject, err)
	}
}

// checkListed tells of files that the manifest does not list. Under a signature
// they are refused: whoever added them did not sign.
func (b *Bundle) checkListed() error {
	if b.manifest == nil {
		return nil
	}
	for _, name := range b.folder.used() {
		if slices.Contains(b.seals, name) || len(b.digests(name)) > 0 {
			continue
		}
		if b.signed {
			return fmt.Errorf("%q is not in the manifest that was signed: %w", name, ovf.ErrSignature)
		}
		b.warn("%s is not in the manifest: whether it is complete and unchanged cannot be known", name)
	}
	return nil
}

// digests are those of a file, however its name is written.
func (b *Bundle) digests(name string) []ovf.Digest {
	var out []ovf.Digest
	for _, d := range b.manifest {
		if path.Clean(d.File) == name {
			out = append(out, d)
		}
	}
	return out
}

// Verify compares all files that the disks are made of with the manifest, which
// reads every byte of them. progress is told the bytes that are read, of all.
func (b *Bundle) Verify(ctx context.Context, progress func(done, total int64)) error {
	type job struct {
		file    formats.File
		digests []ovf.Digest
	}
	var jobs []job
	var done, total int64
	for _, name := range b.folder.used() {
		digests := b.digests(name)
		if len(digests) == 0 {
			continue
		}
		f, err := b.folder.open(name)
		if err != nil {
			return missing(err)
		}
		jobs = append(jobs, job{f, digests})
		total += f.Size
	}
	for _, j := range jobs {
		if err := check(ctx, j.file, j.digests, func(n int64) { done += n; progress(done, total) }); err != nil {
			return err
		}
	}
	return nil
}

// Signed reports whether the manifest has a signature, which was checked. Whose
// it is, is another question, which warnings answer.
func (b *Bundle) Signed() bool { return b.signed }

// HasManifest reports whether there are digests to compare with.
func (b *Bundle) HasManifest() bool { return b.manifest != nil }

// Listed says how many of the files in use the manifest has digests of.
func (b *Bundle) Listed() int {
	n := 0
	for _, name := range b.folder.used() {
		if len(b.digests(name)) > 0 {
			n++
		}
	}
	return n
}

// check reads a file once for all its digests.
func check(ctx context.Context, f formats.File, digests []ovf.Digest, read func(n int64)) error {
	var sums []hash.Hash
	var all []io.Writer
	for _, d := range digests {
		h := d.Hash.New()
		sums, all = append(sums, h), append(all, h)
	}
	in, out := io.NewSectionReader(f, 0, f.Size), io.MultiWriter(all...)
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := in.Read(buf)
		if n > 0 {
			_, _ = out.Write(buf[:n]) // a hash takes all
			read(int64(n))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Name, err)
		}
	}
	for i, d := range digests {
		if !bytes.Equal(sums[i].Sum(nil), d.Sum) {
			return digestError(f.Name, d)
		}
	}
	return nil
}

func digestError(name string, d ovf.Digest) error {
	return fmt.Errorf("%s has not the %s that the manifest says: %w", name, d.Hash, ErrDigest)
}

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/formats/ovf"
	"hyper2kvm/image/bundle"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/hostfile"
	"hyper2kvm/image/nbd"
)

// openSources opens every source with its parents; nothing of it is ever
// opened for writing here.
func (r *run) openSources(ctx context.Context) error {
	for _, s := range r.plan.Sources {
		if s.Remote() && r.plan.Fix.InPlace {
			return api.Errorf(api.CodeUnsupported, "change in place", s.Path, "an NBD export is only read")
		}
		c, err := r.openSource(ctx, s)
		if err != nil {
			return sourceError("open source", s.Name(), err)
		}
		r.sources = append(r.sources, c)
		for _, image := range c.Images() {
			r.report.Warnings = append(r.report.Warnings, image.Info.Warnings...)
		}
		if c.Images()[0].Info.Format == "nbd" || r.plan.Has(api.Structure) {
			continue // what a server has is not cut short: it knows its size; and a check says more
		}
		if err := checkWhole(c); err != nil {
			return sourceError("read the map of", s.Name(), err)
		}
	}
	for _, d := range r.machines {
		for _, w := range slices.Concat(d.Machine.Warnings, d.Warnings) {
			r.remark("%s", w)
		}
		if m := r.report.Machine; m != nil && d.HasManifest() {
			m.Manifest = &api.ManifestReport{Listed: d.Listed(), Signed: d.Signed()}
		}
	}
	return nil
}

// openSource opens a source, which resolve has made one disk.
func (r *run) openSource(ctx context.Context, s api.Source) (*chain.Chain, error) {
	if s.Disk == 0 {
		return chain.Open(s.Path, chain.Policy{Format: s.Format, Outside: s.Outside})
	}
	d, err := r.describe(s)
	if err != nil {
		return nil, err
	}
	disks, err := d.OpenDisks(ctx, s.Disk)
	if err != nil {
		return nil, err
	}
	return disks[0], nil
}

func (r *run) closeSources() {
	closeAll(r.sources)
	closeAll(r.flat)
	for _, d := range r.machines {
		_ = d.Close() // opened for reading only
	}
	r.sources, r.flat, r.machines = nil, nil, nil
}

// slack is how far data may seem to lie beyond the end of its file: the last
// cluster of a healthy image may be cut short, and a qcow2 cluster has at most
// 2 MiB (QEMU docs/interop/qcow2.txt, cluster_bits).
const slack = 2 << 20

// checkWhole walks the map of a disk before anything is done with it, so that a
// copy that broke off is told at once and not as a guest that cannot be found.
func checkWhole(d formats.Disk) error {
	for off := int64(0); off < d.Size(); {
		e, err := d.Extent(off, d.Size()-off)
		if err != nil {
			return err
		}
		if e.Plain != nil {
			file, ok := e.Plain.File.(interface{ Size() int64 })
			if end := e.Plain.Offset + e.Length; ok && end > file.Size()+slack {
				return fmt.Errorf("data of guest offset %d ends at byte %d of a file of %d: %w", off, end, file.Size(), formats.ErrTruncated)
			}
		}
		off += e.Length
	}
	return nil
}

// sourceCode is the table from what goes wrong with a source to its code; the
// first match counts.
func sourceCode(err error) api.Code {
	for _, row := range []struct {
		is   error
		code api.Code
	}{
		{formats.ErrRefused, api.CodePolicy},
		{bundle.ErrWhich, api.CodeWhichMachine},
		{bundle.ErrDigest, api.CodeDigest},
		{ovf.ErrSignature, api.CodeSignature},
		{bundle.ErrMissing, api.CodeMachineFile},
		{bundle.ErrDescriptor, api.CodeDescription},
		{unix.ENOSPC, api.CodeNoSpace}, // of what is unpacked
		{formats.ErrPart, api.CodePart},
		{chain.ErrWrongParent, api.CodeChain},
		{chain.ErrLoop, api.CodeChain},
		{chain.ErrDepth, api.CodeChain},
		{nbd.ErrAddress, api.CodeUsage},
		{hostfile.ErrDirectory, api.CodeNotAFile},
		{hostfile.ErrNotFile, api.CodeNotAFile},
		{detect.ErrEmpty, api.CodeEmpty},
		{formats.ErrTruncated, api.CodeTruncated},
		{formats.ErrCorrupt, api.CodeCorrupt},
		{formats.ErrUnsupported, api.CodeUnsupported},
		{formats.ErrFormat, api.CodeUnknownFormat},
		{fs.ErrNotExist, api.CodeSourceMissing},
	} {
		if errors.Is(err, row.is) {
			return row.code
		}
	}
	return api.CodeSourceRead
}

func sourceError(action, path string, err error) error {
	code := sourceCode(err)
	if nbd.IsAddress(path) && (code == api.CodeSourceRead || code == api.CodeSourceMissing) {
		code = api.CodeSourceServer
	}
	e := api.NewError(code, action, path, err)
	if broken, ok := errors.AsType[*chain.BrokenError](err); ok {
		e.Detail = broken.Tree()
		if code == api.CodeSourceMissing {
			e.Code = api.CodeChain
		}
	}
	return e
}

// fingerprints say which files the sources are made of and when each changed
// last: enough to see that a source is not the one of the interrupted run.
func (r *run) fingerprints() ([]string, error) {
	var out []string
	for _, s := range r.sources {
		if remote := s.Remote(); remote != "" {
			out = append(out, remote)
		}
	}
	for _, name := range r.sourceFiles() {
		info, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", name, err)
		}
		out = append(out, fmt.Sprintf("%s %d %d", name, info.Size(), info.ModTime().UnixNano()))
	}
	return out, nil
}

package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/hostfile"
	"hyper2kvm/image/nbd"
)

// openSources opens every source with its parents; nothing of it is ever
// opened for writing here.
func (r *run) openSources() error {
	for _, s := range r.plan.Sources {
		if s.Remote() && r.plan.Fix.InPlace {
			return api.Errorf(api.CodeUnsupported, "change in place", s.Path, "an NBD export is only read")
		}
		c, err := chain.Open(s.Path, chain.Policy{Format: s.Format, Outside: s.Outside})
		if err != nil {
			r.closeSources()
			return sourceError("open source", s.Path, err)
		}
		r.sources = append(r.sources, c)
		if c.Images()[0].Info.Format == "nbd" || r.plan.Has(api.Structure) {
			continue // what a server has is not cut short: it knows its size; and a check says more
		}
		if err := checkWhole(c); err != nil {
			r.closeSources()
			return sourceError("read the map of", s.Path, err)
		}
		for _, image := range c.Images() {
			r.report.Warnings = append(r.report.Warnings, image.Info.Warnings...)
		}
	}
	return nil
}

func (r *run) closeSources() {
	closeAll(r.sources)
	closeAll(r.flat)
	r.sources, r.flat = nil, nil
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
func fingerprints(sources []*chain.Chain) ([]string, error) {
	var out []string
	for _, s := range sources {
		if remote := s.Remote(); remote != "" {
			out = append(out, remote)
		}
		for _, name := range s.Files() {
			info, err := os.Stat(name)
			if err != nil {
				return nil, fmt.Errorf("look at %s: %w", name, err)
			}
			out = append(out, fmt.Sprintf("%s %d %d", name, info.Size(), info.ModTime().UnixNano()))
		}
	}
	return out, nil
}

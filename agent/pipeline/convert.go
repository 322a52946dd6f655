package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/job"
	"hyper2kvm/formats"
	"hyper2kvm/image/convert"
	"hyper2kvm/image/publish"
)

// extension of an output file by its format.
func extension(format string) string {
	if format == "raw" {
		return "img"
	}
	return format
}

// outputs are the paths of the plan's outputs: the target itself for one disk,
// NAME-sda.qcow2 and so on in the target folder for several.
func (r *run) outputs() []string {
	t := r.plan.Target
	if len(r.plan.Sources) == 1 {
		return []string{t.Path}
	}
	var out []string
	for i := range r.plan.Sources {
		out = append(out, filepath.Join(t.Path, fmt.Sprintf("%s-sd%c.%s", r.plan.Name, 'a'+i, extension(t.Format))))
	}
	return out
}

// beside is the path of a file that goes with the output: NAME.xml, NAME.report.json.
func (r *run) beside(suffix string) string {
	if len(r.plan.Sources) == 1 {
		return filepath.Join(filepath.Dir(r.plan.Target.Path), baseName(r.plan.Target.Path)+suffix)
	}
	return filepath.Join(r.plan.Target.Path, r.plan.Name+suffix)
}

// sourceFiles are all host files that the sources are made of.
func (r *run) sourceFiles() []string {
	var files []string
	for _, s := range r.sources {
		files = append(files, s.Files()...)
	}
	return files
}

// checkTarget refuses what must not be written before any work is done. A
// resumed run has checked before; what it wrote itself may be there.
func (r *run) checkTarget(jobDir string) error {
	if !r.plan.Has(api.Convert) {
		return nil
	}
	if err := r.checkSectors(); err != nil {
		return err
	}
	begun := job.Begun(jobDir)
	for _, out := range r.outputs() {
		if slices.Contains(begun, out) {
			continue
		}
		if err := publish.Check(out, r.plan.Target.Force, r.sourceFiles()); err != nil {
			return outputError("write", out, err)
		}
	}
	return nil
}

func outputError(action, path string, err error) error {
	code := api.CodeOutput
	switch {
	case errors.Is(err, publish.ErrExists):
		code = api.CodeOutputExists
	case errors.Is(err, publish.ErrIsSource):
		code = api.CodeOutputIsSource
	case errors.Is(err, convert.ErrNoSpace):
		code = api.CodeNoSpace
	case errors.Is(err, formats.ErrTruncated), errors.Is(err, formats.ErrCorrupt), errors.Is(err, formats.ErrUnsupported):
		return sourceError(action, path, err)
	}
	return api.NewError(code, action, path, err)
}

// disk is what later stages read of source i: the repaired overlay where
// there is one, else the source itself.
func (r *run) disk(i int) formats.Disk {
	if r.overlays != nil {
		return r.overlays[i]
	}
	return r.sources[i]
}

func (r *run) convert(ctx context.Context) error {
	r.fillDisks()
	for i, out := range r.outputs() {
		r.warnOfSectors(i)
		if err := r.convertOne(ctx, i, out); err != nil {
			return err
		}
	}
	if r.plan.Target.Domain {
		return r.writeDomain()
	}
	return nil
}

func (r *run) convertOne(ctx context.Context, i int, out string) error {
	t, d := r.plan.Target, &r.report.Disks[i]
	d.Output = out
	if slices.Contains(r.job.State.Begun, out) && !t.Force {
		if s, err := os.Stat(out); err == nil {
			d.Written = s.Size() // complete: the run was killed after it got its name
			return nil
		}
	}
	r.job.State.Begun = append(r.job.State.Begun, out)
	if err := r.job.SaveState(); err != nil {
		return api.NewError(api.CodeJob, "record output", out, err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return api.NewError(api.CodeOutput, "make folder for", out, err)
	}
	res, err := convert.Run(ctx, r.disk(i), out, convert.Options{
		Format: t.Format, Variant: t.Variant, Compress: t.Compress, Force: t.Force,
		Verify: t.Verify, Digest: t.Verify, Sources: r.sourceFiles(), Progress: r.progress(api.Convert, i),
	})
	if err != nil {
		return outputError("convert to", out, err)
	}
	d.Written, d.Allocated, d.Digest = res.Written, res.Allocated, digestName(res.Digest)
	r.notice(api.Convert, "%s written", out)
	return nil
}

func digestName(hex string) string {
	if hex == "" {
		return ""
	}
	return "sha256:" + hex
}

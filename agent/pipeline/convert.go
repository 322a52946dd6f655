package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/domain"
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

// intoFolder reports whether the target is a folder: for several disks, and for
// a described machine.
func (r *run) intoFolder() bool { return r.plan.Target.Folder || len(r.plan.Sources) > 1 }

// outputs are the paths of the plan's outputs: the target itself for one disk,
// NAME-sda.qcow2 and so on in the target folder for several.
func (r *run) outputs() []string {
	t := r.plan.Target
	if !r.intoFolder() {
		return []string{t.Path}
	}
	var out []string
	for i := range r.plan.Sources {
		out = append(out, filepath.Join(t.Path, fmt.Sprintf("%s-sd%s.%s", r.plan.Name, domain.Letters(i), extension(t.Format))))
	}
	return out
}

// beside is the path of a file that goes with the output: NAME.xml, NAME.report.json.
func (r *run) beside(suffix string) string {
	if !r.intoFolder() {
		return filepath.Join(filepath.Dir(r.plan.Target.Home()), baseName(r.plan.Target.Home())+suffix)
	}
	return filepath.Join(r.plan.Target.Path, r.plan.Name+suffix)
}

// sourceFiles are all host files that the sources are made of.
func (r *run) sourceFiles() []string {
	var files []string
	for _, s := range r.sources {
		files = append(files, s.Files()...)
	}
	for _, d := range r.machines {
		files = append(files, d.Files()...)
	}
	slices.Sort(files)
	return slices.Compact(files)
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
	if t := r.plan.Target.Path; r.intoFolder() {
		if info, err := os.Stat(t); err == nil && !info.IsDir() {
			return api.Errorf(api.CodeOutputExists, "write", t, "the output is a folder, and this is none")
		}
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
	case errors.Is(err, convert.ErrNoSpace), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = api.CodeNoSpace
	case errors.Is(err, formats.ErrTruncated), errors.Is(err, formats.ErrCorrupt), errors.Is(err, formats.ErrUnsupported):
		return sourceError(action, path, err)
	}
	return api.NewError(code, action, path, err)
}

// disk is what later stages read of source i: the repaired overlay where
// there is one, else what it would lie over.
func (r *run) disk(i int) formats.Disk {
	if r.overlays != nil {
		return r.overlays[i]
	}
	return r.bases()[i]
}

func (r *run) convert(ctx context.Context) error {
	r.fillDisks()
	for i, out := range r.outputs() {
		r.warnOfSectors(i)
		r.warnOfExtras(i)
		if err := r.convertOne(ctx, i, out); err != nil {
			return err
		}
	}
	if r.plan.Target.Domain {
		return r.writeDomain()
	}
	return nil
}

// warnOfExtras says what an image has that no output will have.
func (r *run) warnOfExtras(i int) {
	for _, image := range r.sources[i].Images() {
		if extras := image.Info.Extras; len(extras) > 0 {
			r.warn(api.Convert, "%s holds %s beside the disk: the output has the disk as it is now and nothing of that",
				image.Path, strings.Join(extras, " and "))
		}
	}
}

func (r *run) convertOne(ctx context.Context, i int, out string) error {
	t, d := r.plan.Target, &r.report.Disks[i]
	d.Output = out
	if r.converted(i, out) {
		return nil
	}
	// What an earlier run of this job wrote on a device is in nobody's way.
	force := t.Force || slices.Contains(r.job.State.Begun, out) && isDevice(out)
	r.job.State.Begun = append(r.job.State.Begun, out)
	if err := r.job.SaveState(); err != nil {
		return api.NewError(api.CodeJob, "record output", out, err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return api.NewError(api.CodeOutput, "make folder for", out, err)
	}
	res, err := convert.Run(ctx, r.disk(i), out, convert.Options{
		Format: t.Format, Variant: t.Variant, Compress: t.Compress, Force: force, Sector: r.sources[i].SectorSize(),
		Verify: t.Verify, Digest: t.Digest, Sources: r.sourceFiles(), Progress: r.progress(api.Convert, i),
		Bandwidth: t.Bandwidth, Identity: r.identity(i), Checkpoint: r.job.Checkpoint(api.Convert, i), CheckpointEvery: r.cfg.CheckpointEvery,
	})
	if err != nil {
		return outputError("convert to", out, err)
	}
	d.Written, d.Allocated, d.Digest = res.Written, res.Allocated, digestName(res.Digest)
	r.noticeResumed(api.Convert, i, res)
	if isDevice(out) {
		r.notice(api.Convert, "%s is a device, written in place: until now it held neither its old content nor all of the new", out)
	}
	r.notice(api.Convert, "%s written", out)
	r.job.State.Converted = append(r.job.State.Converted, *d)
	if err := r.job.SaveState(); err != nil {
		return api.NewError(api.CodeJob, "record output", out, err)
	}
	return nil
}

// converted reports whether an earlier run of this job completed the output.
func (r *run) converted(i int, out string) bool {
	info, err := os.Stat(out)
	if err != nil {
		return false
	}
	d := &r.report.Disks[i]
	for _, done := range r.job.State.Converted {
		if done.Output == out {
			d.Written, d.Allocated, d.Digest = done.Written, done.Allocated, done.Digest
			return true
		}
	}
	if !slices.Contains(r.job.State.Begun, out) || r.plan.Target.Force || !info.Mode().IsRegular() {
		return false
	}
	d.Written = info.Size() // complete: the run was killed after it got its name
	return true
}

// identity says which content disk i has, for a checkpoint to be known by.
// What FIX did to it is not in there: a job is done with that before it copies.
func (r *run) identity(i int) string {
	return fmt.Sprintf("disk %d of %q", i, r.job.State.Sources)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeDevice != 0
}

func (r *run) noticeResumed(s api.Stage, i int, res convert.Result) {
	if res.Resumed > 0 {
		r.notice(s, "%s: went on at byte %d of %d, where an earlier run had got", r.plan.Sources[i].Name(), res.Resumed, res.Size)
	}
}

func digestName(hex string) string {
	if hex == "" {
		return ""
	}
	return "sha256:" + hex
}

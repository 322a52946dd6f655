package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/job"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/convert"
	"hyper2kvm/image/overlay"
)

// commit writes the changed blocks of each overlay into its source image: in
// place where the bytes lie plain in one file, else by writing the image anew
// in its own format, which is seen whole or not at all.
func (r *run) commit(ctx context.Context, s api.Stage) error {
	if err := r.committing(true); err != nil {
		return err
	}
	for i, src := range r.sources {
		if len(r.overlays[i].Dirty()) == 0 {
			continue
		}
		if err := r.commitOne(ctx, s, i, src); err != nil {
			return err
		}
		r.notice(s, "%s changed in place", r.plan.Sources[i].Path)
	}
	return r.committing(false)
}

// committing records that the sources are being written: a run that is ended
// now must be finished before anything reads them again.
func (r *run) committing(now bool) error {
	r.job.State.Committing = now
	if err := r.job.SaveState(); err != nil {
		return api.NewError(api.CodeJob, "record that sources are written in", r.job.Dir, err)
	}
	return nil
}

func (r *run) commitOne(ctx context.Context, s api.Stage, i int, src *chain.Chain) error {
	path := r.plan.Sources[i].Path
	images := src.Images()
	if len(images) > 1 {
		return api.Errorf(api.CodeUnsupported, "change in place", path,
			"it is a snapshot over %s: convert it to one image first", images[1].Path)
	}
	info := images[0].Info
	if info.Format == "raw" {
		return commitRaw(ctx, path, r.overlays[i])
	}
	opt, err := convert.Like(info)
	if err != nil {
		return api.NewError(api.CodeUnsupported, "change in place", path, fmt.Errorf("%w: convert it instead", err))
	}
	opt.Force, opt.Progress = true, r.progress(s, i)
	if _, err := convert.Run(ctx, r.overlays[i], path, opt); err != nil {
		return outputError("write anew", path, err)
	}
	return nil
}

func commitRaw(ctx context.Context, path string, o *overlay.Overlay) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return api.NewError(api.CodeOutput, "open for writing", path, err)
	}
	err = o.Commit(ctx, f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return api.NewError(api.CodeOutput, "write changes into", path, err)
	}
	return nil
}

// finishCommits writes what a run that was ended in the middle of it had begun
// to write into the sources of this plan. A plan that does not change its
// sources must not: it is told that they cannot be read as they are.
func (r *run) finishCommits(ctx context.Context) error {
	for _, s := range r.plan.Sources {
		dir := s.Path + JobSuffix
		if !job.Committing(dir) {
			continue
		}
		if !r.plan.Fix.InPlace {
			return api.Errorf(api.CodeJob, "read", s.Path,
				"a repair in place was ended while it was written; h2k resume %s finishes it", s.Path)
		}
		if err := finishCommit(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// finishCommit repeats the writing, which needs nothing of what the sources
// hold now.
func finishCommit(ctx context.Context, dir string) error {
	plan, err := job.ReadPlan(dir)
	if err != nil {
		return api.NewError(api.CodeJob, "finish repair in place of", dir, err)
	}
	j, err := job.Open(dir, plan, true)
	if err != nil {
		return api.NewError(api.CodeJob, "finish repair in place of", dir, err)
	}
	for i, s := range plan.Sources {
		if err := recommit(ctx, j.Overlay("disk", i), s); err != nil {
			return errors.Join(err, j.Close(false))
		}
	}
	if err := j.Close(true); err != nil {
		return api.NewError(api.CodeJob, "close job folder", dir, err)
	}
	return nil
}

// recommit writes one overlay into its raw source again. An image of another
// format was replaced as a whole, or not at all: the repair that runs next
// finds out which.
func recommit(ctx context.Context, layer string, s api.Source) error {
	base, err := chain.Open(s.Path, chain.Policy{Format: s.Format, Outside: s.Outside})
	if err != nil {
		return sourceError("open source", s.Path, err)
	}
	defer closeAll([]*chain.Chain{base})
	if base.Images()[0].Info.Format != "raw" {
		return nil
	}
	o, err := overlay.Open(layer, base)
	if err != nil {
		return api.NewError(api.CodeJob, "open overlay for", s.Path, err)
	}
	return errors.Join(commitRaw(ctx, s.Path, o), o.Close())
}

package pipeline

import (
	"context"
	"errors"
	"os"

	"hyper2kvm/agent/api"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/convert"
	"hyper2kvm/image/overlay"
)

// inspect looks at the guest in the helper VM.
func (r *run) inspect(ctx context.Context) error {
	return r.repair(ctx, api.Inspect)
}

// fix inspects and repairs on the overlay; the source stays as it is unless
// the plan says in place.
func (r *run) fix(ctx context.Context) error {
	if err := r.repair(ctx, api.Inspect, api.Fix); err != nil {
		return err
	}
	if !r.plan.Fix.InPlace || r.plan.Fix.DryRun {
		return nil
	}
	return r.commit(ctx, api.Fix)
}

// undo takes back, in the given image, what earlier runs changed in the guest.
func (r *run) undo(ctx context.Context) error {
	if err := r.repair(ctx, api.Undo); err != nil {
		return err
	}
	if r.plan.Fix.DryRun {
		return nil
	}
	return r.commit(ctx, api.Undo)
}

func (r *run) repair(ctx context.Context, stages ...api.Stage) error {
	if err := r.openOverlays(); err != nil {
		return err
	}
	sub := *r.plan
	sub.Stages = stages
	got, err := r.inHelper(ctx, r.overlays, &sub)
	if got != nil {
		r.report.Guest, r.report.Fixes = got.Guest, got.Fixes
		r.report.Warnings = append(r.report.Warnings, got.Warnings...)
	}
	return err
}

// commit writes the changed blocks of each overlay into its source image: in
// place where the bytes lie plain in one file, else by writing the image anew
// in its own format. Either can be killed and repeated.
func (r *run) commit(ctx context.Context, s api.Stage) error {
	for i, src := range r.sources {
		if len(r.overlays[i].Dirty()) == 0 {
			continue
		}
		if err := r.commitOne(ctx, s, i, src); err != nil {
			return err
		}
		r.notice(s, "%s changed in place", r.plan.Sources[i].Path)
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
	_, err := convert.Run(ctx, r.overlays[i], path, convert.Options{
		Format: info.Format, Variant: info.Variant, Force: true, Progress: r.progress(s, i),
	})
	if err != nil {
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

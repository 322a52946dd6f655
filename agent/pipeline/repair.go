package pipeline

import (
	"context"

	"hyper2kvm/agent/api"
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

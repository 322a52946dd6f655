package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/helper"
	"hyper2kvm/formats"
	"hyper2kvm/image/overlay"
)

// inHelper boots the helper VM with the overlays attached, runs the plan there
// on them, and takes everything down again.
func (r *run) inHelper(ctx context.Context, disks []*overlay.Overlay, plan *api.Plan) (*api.Report, error) {
	served, err := r.serve(ctx, disks)
	if err != nil {
		return nil, err
	}
	var attached []helper.Disk
	for i, socket := range served.sockets {
		attached = append(attached, helper.Disk{Socket: socket, Sector: r.sources[i].SectorSize()})
	}
	report, err := r.inVM(ctx, attached, plan)
	// A disk that could not be read or written is why whatever came of it, and
	// the guest only saw that something was wrong.
	if e := served.stop(); e != nil {
		return report, outputError("work on", r.plan.Sources[0].Name(), e)
	}
	for _, d := range disks {
		if e := d.Sync(); e != nil {
			err = errors.Join(err, api.NewError(api.CodeJob, "write overlay in", r.job.Dir, e))
		}
	}
	return report, err
}

func (r *run) inVM(ctx context.Context, disks []helper.Disk, plan *api.Plan) (*api.Report, error) {
	sub := *plan
	if err := sub.Fix.LoadAgent(); err != nil {
		return nil, err
	}
	start := time.Now()
	vm, err := helper.Start(ctx, helper.Config{ImageDir: r.cfg.ImageDir, Disks: disks, Memory: r.cfg.Memory, Unlocks: len(r.keys) > 0})
	if err != nil {
		return nil, helperError("start helper VM", err)
	}
	if accel := vm.Accel().String(); r.report.Accel != accel {
		r.report.Accel = accel
		r.notice(plan.Stages[0], "the helper VM runs on %s", accel)
	}
	r.spend("helper VM ready", time.Since(start).Seconds())
	// What is written, and how, is decided out here.
	sub.Sources, sub.Target = nil, api.Target{}
	sub.Machine.SecureBoot, sub.Machine.BootDisk = "", 0
	sub.Keys = nil
	for i := range disks {
		sub.Sources = append(sub.Sources, api.Source{Path: vm.Device(i), Format: "raw"})
	}
	report, err := r.runIn(ctx, vm, &sub)
	if report != nil {
		for _, s := range report.Stages {
			r.spend(string(s.Stage)+" in it", s.Seconds)
		}
	}
	start = time.Now()
	if e := vm.Close(); err == nil && e != nil {
		err = helperError("stop helper VM", e)
	}
	r.spend("its end", time.Since(start).Seconds())
	return report, err
}

// runIn gives the agent in the VM the keys, which no plan holds, and then the plan.
func (r *run) runIn(ctx context.Context, vm *helper.VM, plan *api.Plan) (*api.Report, error) {
	if len(r.keys) > 0 {
		if err := vm.GiveKeys(ctx, r.keys); err != nil {
			return nil, err
		}
	}
	return vm.Agent().Run(ctx, plan, "", r.events)
}

// getKeys gets what the plan's keys refer to, before any work is done that would
// be lost without them, and only for a run that looks into the guest.
func (r *run) getKeys(ctx context.Context) (err error) {
	for _, s := range []api.Stage{api.Inspect, api.Fix, api.Undo, api.Validate} {
		if r.plan.Has(s) {
			r.keys, err = r.cfg.Secrets.Get(ctx, r.plan.Keys)
			return err
		}
	}
	return nil
}

func (r *run) spend(what string, seconds float64) {
	r.spent = append(r.spent, fmt.Sprintf("%s %.1f s", what, seconds))
}

// helperError gives an error of the helper VM its code, unless it has one.
func helperError(action string, err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	return api.NewError(api.CodeHelper, action, "", err)
}

// openOverlays lays a new overlay over each source.
func (r *run) openOverlays() error {
	if r.overlays != nil {
		return nil
	}
	var err error
	r.overlays, err = layOver(r, "disk", r.bases())
	return err
}

// layOver lays a new overlay of the given name over each disk. What was made
// before an error is returned as well, to be closed.
func layOver[D formats.Disk](r *run, name string, disks []D) ([]*overlay.Overlay, error) {
	var layers []*overlay.Overlay
	for i, d := range disks {
		o, err := overlay.Create(r.job.Overlay(name, i), d)
		if err != nil {
			return layers, api.NewError(api.CodeJob, "make overlay "+name+" in", r.job.Dir, err)
		}
		layers = append(layers, o)
	}
	return layers, nil
}

// reopenOverlays takes the overlays of an earlier, interrupted run.
func (r *run) reopenOverlays() error {
	for i, base := range r.bases() {
		o, err := overlay.Open(r.job.Overlay("disk", i), base)
		if err != nil {
			return api.NewError(api.CodeJob, "open overlay for", r.plan.Sources[i].Name(), err)
		}
		r.overlays = append(r.overlays, o)
	}
	return nil
}

func (r *run) closeOverlays() error {
	var err error
	for _, o := range r.overlays {
		err = errors.Join(err, o.Close())
	}
	return err
}

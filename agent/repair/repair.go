// Package repair inspects and repairs a guest whose disks are block devices of
// this machine: the part of a run that goes on in the helper VM, or in the
// rescue image.
//
// One run scans the disks, mounts the guest's root and what belongs to it,
// inspects, plans and applies fixes (or undoes earlier ones), and takes all of
// it down again, whatever happens between.
//
// What may be written: a run that only looks (INSPECT, or FIX as a dry run)
// mounts read-only and replays no journal, so not a byte of the disks changes.
// A run that repairs replays journals first, by a read-only mount, then checks,
// then writes.
package repair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/secret"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// Config says what the machine this runs on has.
type Config struct {
	// Need makes a program ("lvm", "e2fsck") or kernel module ("xfs") available
	// that the running image may not hold; nil takes what is there.
	Need func(name string) error
	// Canary is the path of the program that VALIDATE has put into guests; ""
	// refuses such plans.
	Canary string
	// Keys open encrypted volumes.
	Keys []secret.Key
	// NoPrograms keeps fixes from running programs of the guest. Set it wherever
	// anything but the guest's own disks is in reach.
	NoPrograms bool
	// TempDir takes the folders to mount on, "" is the system's.
	TempDir string
	Log     *slog.Logger // nil is silent
}

// Agent runs the stages INSPECT, FIX and UNDO of plans whose sources are block
// devices.
type Agent struct{ cfg Config }

var _ api.Agent = (*Agent)(nil)

// New returns an agent for this machine.
func New(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Agent{cfg: cfg}
}

// run is one run of a plan.
type run struct {
	cfg    Config
	plan   *api.Plan
	events api.Sink
	report *api.Report
	stage  api.Stage

	session *session
	facts   *guest.Facts
}

// Run implements api.Agent. It keeps no job folder.
func (a *Agent) Run(ctx context.Context, plan *api.Plan, _ string, events api.Sink) (*api.Report, error) {
	r := &run{cfg: a.cfg, plan: plan, events: events, report: &api.Report{Version: api.Version, Name: plan.Name}}
	err := r.whole(ctx)
	if err != nil && ctx.Err() != nil {
		err = api.NewError(api.CodeInterrupted, string(r.stage), plan.Name, errors.Join(context.Cause(ctx), err))
	}
	r.report.Status = api.Done
	if err != nil {
		r.report.Error = api.AsError(err)
		r.report.Status = r.report.Error.Code.Status()
	}
	return r.report, err
}

// closeTime is the most that taking volumes down may take: some seconds even
// where the machine is emulated.
const closeTime = 2 * time.Minute

func (r *run) whole(ctx context.Context) error {
	if err := r.plan.Check(); err != nil {
		return api.NewError(api.CodeUsage, "check plan", r.plan.Name, err)
	}
	for _, s := range r.plan.Stages {
		if s != api.Inspect && s != api.Fix && s != api.Undo {
			return api.Errorf(api.CodeUsage, "check plan", r.plan.Name, "stage %q does not run beside the disks", s)
		}
	}
	if len(r.plan.Stages) == 0 {
		return api.Errorf(api.CodeUsage, "check plan", r.plan.Name, "no stage")
	}
	r.stage = r.plan.Stages[0]
	err := r.inside(ctx)
	// What was mounted comes down even when the run was interrupted.
	down, stop := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer stop()
	if e := r.close(down); err == nil {
		err = e
	}
	return err
}

// inside does the stages on a guest that it mounts first.
func (r *run) inside(ctx context.Context) error {
	if err := r.timed(api.Inspect, func() error { return r.inspect(ctx) }); err != nil {
		return err
	}
	if r.plan.Has(api.Fix) {
		r.stage = api.Fix
		if err := r.timed(api.Fix, func() error { return r.fix(ctx) }); err != nil {
			return err
		}
	}
	if r.plan.Has(api.Undo) {
		r.stage = api.Undo
		return r.timed(api.Undo, func() error { return r.undo(ctx) })
	}
	return nil
}

func (r *run) timed(s api.Stage, do func() error) error {
	start := time.Now()
	err := do()
	r.report.Stages = append(r.report.Stages, api.StageTime{Stage: s, Seconds: time.Since(start).Seconds()})
	return err
}

// writes reports whether the run changes the guest.
func (r *run) writes() bool {
	return (r.plan.Has(api.Fix) || r.plan.Has(api.Undo)) && !r.plan.Fix.DryRun
}

func (r *run) notice(format string, args ...any) {
	r.emit(api.Notice, fmt.Sprintf(format, args...))
}

func (r *run) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.report.Warnings = append(r.report.Warnings, text)
	r.emit(api.Warning, text)
}

func (r *run) emit(level api.Level, text string) {
	if r.events != nil {
		r.events.Emit(api.Event{Stage: r.stage, Level: level, Message: text})
	}
}

func (r *run) close(ctx context.Context) error {
	if r.session == nil {
		return nil
	}
	if err := r.session.close(ctx); err != nil {
		return api.NewError(api.CodeInternal, "take down guest", r.plan.Name, err)
	}
	return nil
}

// fixError gives an error of the engine its code.
func (r *run) fixError(code api.Code, action string, err error) error {
	object := r.facts.OS.Name
	if space, ok := errors.AsType[*fixes.SpaceError](err); ok {
		return api.NewError(api.CodeGuestSpace, action, space.Name, err)
	}
	if isNoSpace(err) {
		code = api.CodeGuestSpace
	}
	e := api.NewError(code, action, object, err)
	if command, ok := errors.AsType[*fixes.CommandError](err); ok {
		e.Detail = command.Output
	}
	if edited, ok := errors.AsType[*fixes.EditedError](err); ok {
		for _, name := range edited.Files {
			e.Detail += name + "\n"
		}
	}
	return e
}

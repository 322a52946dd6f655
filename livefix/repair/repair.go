// Package repair is one run on one running guest: find out what it is, plan,
// ask, apply, prove.
//
// It runs before the move, so the guest must still boot where it is: the fixes
// add what KVM needs and remove nothing that the old machine needs, and an
// initramfs that cannot be proven is taken back.
package repair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux"
	"hyper2kvm/fixes/linux/initramfs"
	"hyper2kvm/livefix/sshguest"
)

// Options steer one run.
type Options struct {
	Fix  api.FixOptions
	Undo bool
	// Confirm is shown the plan and says whether to go on; nil goes on.
	Confirm func(*api.Report) (bool, error)
	// Notice tells what is being done.
	Notice func(format string, args ...any)
}

// ErrDeclined says that Confirm said no.
var ErrDeclined = errors.New("not confirmed; nothing was changed")

// run is one run.
type run struct {
	Options
	live   *sshguest.Guest
	facts  *guest.Facts
	report *api.Report
}

// Run does it. The report is there, as far as it got, when err is not nil.
func Run(ctx context.Context, live *sshguest.Guest, name string, o Options) (*api.Report, error) {
	r := &run{Options: o, live: live, report: &api.Report{Version: api.Version, Name: name, Status: api.Done}}
	if r.Notice == nil {
		r.Notice = func(string, ...any) {}
	}
	err := r.stages(ctx)
	if err != nil {
		err = r.coded(ctx, err)
		r.report.Error = api.AsError(err)
		r.report.Status = r.report.Error.Code.Status()
	}
	return r.report, err
}

func (r *run) stages(ctx context.Context) error {
	if !r.Fix.DryRun {
		// Before anything is read: what a cut session began may still go on.
		if err := r.live.Lock(ctx, r.Notice); err != nil {
			return err
		}
	}
	if err := r.timed(api.Inspect, r.inspect); err != nil {
		return err
	}
	if r.Undo {
		return r.timed(api.Undo, func() error { return r.undo(ctx) })
	}
	return r.fix(ctx)
}

func (r *run) timed(s api.Stage, do func() error) error {
	start := time.Now()
	err := do()
	r.report.Stages = append(r.report.Stages, api.StageTime{Stage: s, Seconds: time.Since(start).Seconds()})
	return err
}

func (r *run) warn(format string, args ...any) {
	r.report.Warnings = append(r.report.Warnings, fmt.Sprintf(format, args...))
}

func (r *run) inspect() error {
	facts, err := r.live.Facts()
	if err != nil {
		return err
	}
	r.facts, r.report.Guest = facts, facts
	r.report.Warnings = append(r.report.Warnings, facts.Warnings...)
	r.Notice("%s, %s, %s, kernels: %d, boots by %s", cmp.Or(facts.OS.Name, "unknown system"),
		cmp.Or(facts.Arch, "unknown machine"), facts.Firmware, len(facts.Kernels), facts.Loader.Kind)
	return nil
}

// guest is what fixes see.
func (r *run) guest() *guest.Guest {
	return &guest.Guest{FS: r.live.FS(), Run: r.live, Facts: r.facts}
}

// list is what may be done: the same as offline, but the guest's own generator
// makes its initramfs unless something else was asked for.
func (r *run) list() []fixes.Fix {
	mode := cmp.Or(r.Fix.Initramfs, initramfs.Regenerate)
	return linux.All(linux.Options{Devices: r.Fix.Devices}, initramfs.Fixes(initramfs.Options{Mode: mode}))
}

func (r *run) fix(ctx context.Context) error {
	if err := r.repairable(); err != nil {
		return err
	}
	var planned *fixes.Planned
	err := r.timed("plan", func() error {
		var err error
		planned, err = fixes.Plan(ctx, r.guest(), r.list(), fixes.Selection{Only: r.Fix.Only, Skip: r.Fix.Skip})
		if planned != nil {
			r.reportFixes(planned)
		}
		if err == nil {
			err = planned.Failures()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := r.writable(planned); err != nil {
		if !r.Fix.DryRun {
			return err
		}
		r.warn("%v", err)
	}
	if r.Fix.DryRun || !planned.Pending() {
		return nil
	}
	if r.Confirm != nil {
		ok, err := r.Confirm(r.report)
		if err != nil {
			return err
		}
		if !ok {
			return ErrDeclined
		}
	}
	return r.timed(api.Fix, func() error { return r.apply(ctx, planned) })
}

// repairable refuses guests that no fix is made for.
func (r *run) repairable() error {
	switch {
	case r.facts.OS.Family != "linux":
		return api.Errorf(api.CodeNoRoot, "repair", r.report.Name, "its system is not known")
	case len(r.facts.Kernels) == 0:
		return api.Errorf(api.CodeNoRoot, "repair", r.report.Name, "no installed kernel was found in /boot: is this a container?")
	}
	return nil
}

func (r *run) apply(ctx context.Context, planned *fixes.Planned) error {
	r.live.Forget() // time has passed since it was read
	err := fixes.Apply(ctx, r.guest(), planned, func(done, total int, id, what string) {
		r.Notice("%s: %s (%d of %d)", id, what, done, total)
	})
	r.reportFixes(planned)
	if err != nil {
		return err
	}
	if err := r.live.Relabel(changed(planned)); err != nil {
		r.warn("%v", err)
	}
	r.live.Forget()
	return r.prove(ctx)
}

// changed lists the files that were written.
func changed(planned *fixes.Planned) []string {
	var out []string
	for _, result := range planned.Results {
		for _, c := range result.Changes {
			if command, ok := c.(fixes.Command); ok {
				out = append(out, command.Touches...)
			} else {
				out = append(out, c.Target())
			}
		}
	}
	return out
}

// prove reads every initramfs back. One that is not fit is taken back with all
// else: the guest has to boot where it is.
func (r *run) prove(ctx context.Context) error {
	if r.Fix.Initramfs == initramfs.None || len(r.Fix.Only) > 0 || len(r.Fix.Skip) > 0 {
		return nil // what was not asked for may be missing
	}
	findings, err := initramfs.Verify(ctx, r.guest())
	for _, f := range findings {
		if f.Err != nil || len(f.Missing) > 0 {
			err = errors.Join(err, errors.New(f.String()))
			continue
		}
		r.warn("%s", f)
	}
	if err == nil {
		return nil
	}
	if _, undoErr := fixes.Undo(ctx, r.guest(), fixes.UndoOptions{}); undoErr != nil {
		return api.Errorf(api.CodeFix, "read initramfs back from", r.report.Name, "%w; and taking it back failed: %w", err, undoErr)
	}
	for i := range r.report.Fixes {
		if r.report.Fixes[i].State == string(fixes.Changed) {
			r.report.Fixes[i].State = string(fixes.Failed)
		}
	}
	return api.Errorf(api.CodeFix, "read initramfs back from", r.report.Name, "%w; everything was taken back", err)
}

func (r *run) undo(ctx context.Context) error {
	names, err := fixes.Undo(ctx, r.guest(), fixes.UndoOptions{})
	if err != nil {
		return err
	}
	r.report.Fixes = append(r.report.Fixes, api.FixReport{ID: "undo", Why: "Takes back what earlier runs changed.", State: string(fixes.Changed), Notes: names})
	r.Notice("%d files are as they were: %s", len(names), strings.Join(names, ", "))
	return nil
}

func (r *run) reportFixes(planned *fixes.Planned) {
	r.report.Fixes = nil
	for _, f := range planned.Results {
		out := api.FixReport{ID: f.ID, Why: f.Why, State: string(f.State), Diff: f.Diff, Notes: f.Notes}
		if f.Err != nil {
			out.Notes = append(out.Notes, f.Err.Error())
		}
		r.report.Fixes = append(r.report.Fixes, out)
	}
}

// coded gives an error the code that says what to do next.
func (r *run) coded(ctx context.Context, err error) error {
	code, action := api.CodeFix, "repair"
	if r.Undo {
		code, action = api.CodeUndo, "undo repair of"
	}
	if ctx.Err() == nil && r.live.Lost() {
		e := api.Errorf(api.CodeLost, action, r.report.Name, "the connection to the guest ended midway")
		e.Detail = err.Error()
		return e
	}
	if e, ok := errors.AsType[*api.Error](err); ok && (ctx.Err() == nil || e.Code == api.CodeInterrupted) {
		return e
	}
	if _, ok := errors.AsType[*fixes.UnknownFixError](err); ok {
		code = api.CodeUsage
	}
	if _, ok := errors.AsType[*fixes.SpaceError](err); ok {
		code = api.CodeGuestSpace
	}
	if ctx.Err() != nil || errors.Is(err, ErrDeclined) {
		code = api.CodeInterrupted
	}
	e := api.NewError(code, action, r.report.Name, err)
	if command, ok := errors.AsType[*fixes.CommandError](err); ok {
		e.Detail = command.Output
	}
	if edited, ok := errors.AsType[*fixes.EditedError](err); ok {
		e.Detail = strings.Join(edited.Files, "\n")
	}
	return e
}

package repair

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux"
	"hyper2kvm/fixes/linux/initramfs"
)

// guest gives the guest that fixes see.
func (r *run) guest() *guest.Guest {
	g := &guest.Guest{FS: r.session.root, Facts: r.facts}
	if !r.cfg.NoPrograms {
		g.Run = mounted.NewRunner(r.session.root)
	}
	return g
}

// fix plans the fixes and, unless it is a dry run, applies them.
func (r *run) fix(ctx context.Context) error {
	if err := r.repairable(); err != nil {
		return err
	}
	list, err := r.fixes()
	if err != nil {
		return err
	}
	g := r.guest()
	if r.writes() {
		if err := r.makeWritable(); err != nil {
			return err
		}
	}
	planned, err := fixes.Plan(ctx, g, list, fixes.Selection{Only: r.plan.Fix.Only, Skip: r.plan.Fix.Skip})
	if planned != nil {
		r.reportFixes(planned)
	}
	if err == nil {
		err = planned.Failures()
	}
	if err != nil {
		return r.fixError(planCode(err), "plan repair of", err)
	}
	if !r.writes() || !planned.Pending() {
		return nil
	}
	err = fixes.Apply(ctx, g, planned, func(done, total int, id, what string) { r.notice("%s: %s (%d of %d)", id, what, done, total) })
	r.reportFixes(planned)
	if err != nil {
		return r.fixError(api.CodeFix, "repair", err)
	}
	return r.finish(ctx)
}

// planCode tells a wrong selection from a fix that failed.
func planCode(err error) api.Code {
	if _, ok := errors.AsType[*fixes.UnknownFixError](err); ok {
		return api.CodeUsage
	}
	if _, ok := errors.AsType[*linux.KernelError](err); ok {
		return api.CodeKernel
	}
	return api.CodeFix
}

// repairable refuses guests that no fix is made for.
func (r *run) repairable() error {
	switch {
	case r.facts.OS.Family == "bsd":
		return api.Errorf(api.CodeNoRoot, "repair guest", r.facts.OS.Name, "no repair is made for it: name its disks by label in fstab, and vtnet0 for its card in rc.conf, before the move")
	case r.facts.OS.Family != "linux":
		return api.Errorf(api.CodeNoRoot, "repair guest", r.plan.Name, "its system is not known")
	case r.plan.Fix.Canary:
		return nil
	case len(r.facts.Kernels) == 0:
		return api.Errorf(api.CodeNoRoot, "repair guest", r.facts.OS.Name, "no installed kernel was found")
	}
	return nil
}

// makeWritable mounts for writing and checks that there is room to.
func (r *run) makeWritable() error {
	if err := r.session.writable(); err != nil {
		return api.NewError(api.CodeGuestDamaged, "open guest for writing", r.facts.OS.Name, err)
	}
	if err := r.checkSpace(); err != nil {
		return err
	}
	if err := r.session.prove(); err != nil {
		return r.fixError(api.CodeGuestDamaged, "open guest for writing", err)
	}
	return nil
}

// Room that a repair needs, in bytes and inodes. Injecting drivers takes a few
// MiB beside an initramfs; a generator writes a whole new one, and its
// temporary files.
const (
	mib           = 1 << 20
	rootInject    = 20 * mib
	bootInject    = 10 * mib
	rootGenerator = 100 * mib
	bootGenerator = 50 * mib
	otherSpace    = 1 * mib
	minInodes     = 100
)

// checkSpace refuses a guest whose file systems are too full to repair. What an
// undo needs is there already, and so, nearly, is what the canary does.
func (r *run) checkSpace() error {
	if r.plan.Fix.Canary || !r.plan.Has(api.Fix) {
		return nil
	}
	root, boot := int64(rootInject), int64(bootInject)
	if r.plan.Fix.Initramfs == "regenerate" {
		root, boot = rootGenerator, bootGenerator
	}
	for _, m := range r.facts.Mounts {
		need := int64(otherSpace)
		switch m.Point {
		case "/":
			need = root
		case "/boot":
			need = boot
		}
		if m.Free < need {
			return api.Errorf(api.CodeGuestSpace, "repair guest", m.Point, "%d MiB are free on %s, %d MiB are needed", m.Free/mib, m.Point, need/mib)
		}
		if m.Inodes >= 0 && m.Inodes < minInodes {
			return api.Errorf(api.CodeGuestSpace, "repair guest", m.Point, "%d inodes are free on %s, %d are needed", m.Inodes, m.Point, minInodes)
		}
	}
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

// finish reads back what was written, gives free blocks back, and checks.
func (r *run) finish(ctx context.Context) error {
	if err := r.proveInitramfs(ctx); err != nil {
		return err
	}
	// In place, what a discard drops is gone for good; and the canary's overlay
	// is thrown away.
	if !r.plan.Fix.InPlace && !r.plan.Fix.Canary {
		r.trim()
	}
	return r.checkAfter(ctx)
}

// proveInitramfs reads every initramfs back: one without drivers is a guest that
// does not boot.
func (r *run) proveInitramfs(ctx context.Context) error {
	if r.plan.Fix.Canary || r.plan.Fix.Initramfs == initramfs.None {
		return nil
	}
	if len(r.plan.Fix.Only) > 0 || len(r.plan.Fix.Skip) > 0 {
		return nil // what was not asked for may be missing
	}
	findings, err := initramfs.Verify(ctx, r.guest())
	if err != nil {
		return api.NewError(api.CodeFix, "read initramfs back", r.facts.OS.Name, err)
	}
	for _, f := range findings {
		if f.Fatal() {
			return api.Errorf(api.CodeFix, "read initramfs back", f.Initramfs, "%s", f)
		}
		r.warn("%s", f)
	}
	return nil
}

// trim tells the disks which blocks the file systems do not use, so that deleted
// data is not copied. Whether that works is nobody's concern but the size's.
func (r *run) trim() {
	for _, m := range r.session.mounts {
		if err := trimOne(m.at); err != nil {
			r.cfg.Log.Debug("trim", "mount", m.at, "err", err)
		}
	}
}

func (r *run) undo(ctx context.Context) error {
	if r.writes() {
		if err := r.makeWritable(); err != nil {
			return err
		}
	} else {
		return api.Errorf(api.CodeUsage, "undo", r.plan.Name, "an undo has no dry run")
	}
	names, err := fixes.Undo(ctx, r.guest(), fixes.UndoOptions{})
	if err != nil {
		return r.fixError(api.CodeUndo, "undo repair of", err)
	}
	r.report.Fixes = append(r.report.Fixes, api.FixReport{ID: "undo", Why: "Takes back what earlier runs changed.", State: string(fixes.Changed), Notes: names})
	r.notice("%d files are as they were: %s", len(names), strings.Join(names, ", "))
	return r.checkAfter(ctx)
}

// fitrimRange is struct fstrim_range of linux/fs.h: offset, length and least run
// to discard, in bytes.
type fitrimRange struct{ start, length, minimum uint64 }

func trimOne(at string) error {
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	return fitrim(f, &fitrimRange{length: 1<<64 - 1})
}

func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

var errDamaged = fmt.Errorf("file system is damaged")

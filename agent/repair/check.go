package repair

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/blockdev/probe"
	"hyper2kvm/fixes/guest"
)

// checkBefore looks for damage before anything is written, with each file
// system's own checker. Mounting has replayed the journals, unless the run only
// looks: then nothing is checked either.
func (r *run) checkBefore(ctx context.Context) error {
	for _, m := range r.session.mounts {
		switch {
		case !r.writes() && m.fs.Note == probe.NeedsReplay:
			r.warn("%s was not unmounted, and its journal is not replayed to look at it: what was changed last may not show", sourceName(m.fs))
		case m.fs.Note == probe.NeedsReplay:
			m.fs.Note = ""
			r.warn("%s was not unmounted: its journal was replayed", sourceName(m.fs))
		}
		if !r.writes() {
			continue
		}
		if err := r.check(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// checkAfter checks each file system again once it is written, so that a repair
// cannot leave damage that was not there. What the kernel met on the way it notes
// in the super block when it syncs.
func (r *run) checkAfter(ctx context.Context) error {
	if err := r.session.readOnly(); err != nil {
		return api.NewError(api.CodeGuestDamaged, "write", r.facts.OS.Name, err)
	}
	for _, m := range r.session.mounts {
		note, err := noteOf(m.fs)
		if err != nil {
			return api.NewError(api.CodeSourceRead, "check", sourceName(m.fs), err)
		}
		if note == probe.HasErrors && m.fs.Note != probe.HasErrors {
			return api.NewError(api.CodeGuestDamaged, "check", sourceName(m.fs), errDamaged)
		}
		if r.oldXFS(m) {
			continue
		}
		if err := r.check(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// oldXFS reports whether newer xfs_repair finds errors in a file system that has
// none: RHEL 7's kernel wraps the free list of allocation groups differently
// (Linux 96f859d52bcb), so what it wrote must not count as what we broke.
func (r *run) oldXFS(m *mount) bool {
	id, version := r.facts.OS.ID, r.facts.OS.Version
	return m.fs.Type == "xfs" && (version == "7" || strings.HasPrefix(version, "7.")) && slices.Contains([]string{"rhel", "centos", "ol", "scientific"}, id)
}

func noteOf(fs *guest.Filesystem) (string, error) {
	f, err := os.Open(fs.Device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	c, err := probe.Probe(f, fs.Size)
	return c.Note, err
}

// maxCheckOutput bounds what is kept of a checker's findings, in bytes.
const maxCheckOutput = 4 << 10

// wholeCheck is the size up to which a file system is checked whole, in bytes: a
// check reads all metadata, and holds some of it in memory.
const wholeCheck = 1 << 40

// checkerOf gives a file system's own checker, told only to read, nil for none. A
// check of btrfs reads all data, to find what reading a file finds as well.
func checkerOf(fs *guest.Filesystem) []string {
	switch {
	case strings.HasPrefix(fs.Type, "ext"):
		return []string{"e2fsck", "-f", "-n", fs.Device}
	case fs.Type == "xfs":
		return []string{"xfs_repair", "-n", "-P", fs.Device}
	}
	return nil
}

// damaged reports whether the exit code of a checker means that it found damage,
// and not that it could not check (e2fsck(8), xfs_repair(8)).
func damaged(checker string, exit int) bool {
	if checker == "e2fsck" {
		return exit > 0 && exit&4 != 0
	}
	return exit == 1
}

func (r *run) check(ctx context.Context, m *mount) error {
	args := checkerOf(m.fs)
	if args == nil || r.plan.Fix.Canary { // the canary's overlay is thrown away
		return nil
	}
	if m.fs.Size > wholeCheck && m.fs.Note != probe.HasErrors {
		r.notice("%s: not checked whole: larger than 1 TiB", sourceName(m.fs))
		return nil
	}
	if r.cfg.Need != nil {
		if err := r.cfg.Need(args[0]); err != nil {
			r.warn("%s is not checked: %s is not here: %v", sourceName(m.fs), args[0], err)
			return nil
		}
	}
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil && m.fs.Note == probe.HasErrors:
		r.warn("%s says that it had errors; %s finds none", sourceName(m.fs), args[0])
		return nil
	case err == nil:
		return nil
	case !failed || !damaged(args[0], exit.ExitCode()):
		r.warn("%s was not checked: %s: %v", sourceName(m.fs), args[0], err)
		return nil
	}
	e := api.Errorf(api.CodeGuestDamaged, "check", sourceName(m.fs), "%s finds errors (exit code %d)", args[0], exit.ExitCode())
	e.Detail = string(bytes.TrimSpace(out[max(0, len(out)-maxCheckOutput):]))
	return e
}

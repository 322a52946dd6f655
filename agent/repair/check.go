package repair

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/blockdev/probe"
	"hyper2kvm/fixes/guest"
)

// checkBefore looks for damage before anything is written. Mounting has replayed
// the journals. A file system that says of itself that it found errors gets the
// whole check, and is refused if that finds any; one that says nothing gets the
// quick one: a whole check reads all metadata, which is most of what a repair
// would cost.
func (r *run) checkBefore(ctx context.Context) error {
	for _, m := range r.session.mounts {
		if m.fs.Note == probe.NeedsReplay {
			m.fs.Note = ""
			r.warn("%s was not unmounted: its journal was replayed", sourceName(m.fs))
		}
		if err := r.check(ctx, m, m.fs.Note == probe.HasErrors); err != nil {
			return err
		}
	}
	return nil
}

// checkAfter asks each file system that was written whether it met errors on the
// way: it notes them in its super block. The kernel writes that when it syncs.
func (r *run) checkAfter(context.Context) error {
	for _, m := range r.session.mounts {
		if err := syncMount(m.at); err != nil {
			return api.NewError(api.CodeGuestDamaged, "write", sourceName(m.fs), err)
		}
		note, err := noteOf(m.fs)
		if err != nil {
			return api.NewError(api.CodeSourceRead, "check", sourceName(m.fs), err)
		}
		if note == probe.HasErrors && m.fs.Note != probe.HasErrors {
			return api.NewError(api.CodeGuestDamaged, "check", sourceName(m.fs), errDamaged)
		}
	}
	return nil
}

func syncMount(at string) error {
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
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

// check runs the file system's own checker, which only reads. Without one the
// kernel's checks on mounting are all there is.
func (r *run) check(ctx context.Context, m *mount, whole bool) error {
	var args []string
	switch {
	case strings.HasPrefix(m.fs.Type, "ext") && whole:
		args = []string{"e2fsck", "-f", "-n", m.fs.Device}
	case m.fs.Type == "xfs" && whole:
		args = []string{"xfs_repair", "-n", "-P", m.fs.Device}
	default:
		return nil
	}
	if r.cfg.Need != nil {
		if err := r.cfg.Need(args[0]); err != nil {
			r.warn("%s says that it has errors, and %s to check it is not here: %v", sourceName(m.fs), args[0], err)
			return nil
		}
	}
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		r.warn("%s says that it had errors; %s finds none", sourceName(m.fs), args[0])
		return nil
	case !failed:
		r.warn("%s says that it has errors, and was not checked: %v", sourceName(m.fs), err)
		return nil
	}
	e := api.Errorf(api.CodeGuestDamaged, "check", sourceName(m.fs), "%s finds errors (exit code %d)", args[0], exit.ExitCode())
	e.Detail = string(bytes.TrimSpace(out[max(0, len(out)-maxCheckOutput):]))
	return e
}

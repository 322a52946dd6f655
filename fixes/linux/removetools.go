package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/packages"
	"hyper2kvm/fixes/linux/shellvars"
)

// removeTools removes the tools of other hypervisors. The guest's own package
// manager and the makers' uninstallers do it, in a trial on a copy of its files;
// what they did becomes plain changes. So a dry run shows it, file by file, and
// undo gives every byte back, whatever scripts ran. It must stand first: a trial
// does not see what other fixes want.
type removeTools struct{ on bool }

// ID returns the stable name.
func (removeTools) ID() string { return "linux/remove-tools" }

// Why says what breaks without the fix.
func (removeTools) Why() string {
	return "The tools of another hypervisor are of no use on KVM; --remove-tools has them removed instead of switched off."
}

// Applies reports whether the guest is Linux.
func (removeTools) Applies(facts *guest.Facts) bool { return facts.OS.Family == "linux" }

// Bounds of what a removal may change, in bytes: written into the guest, and
// kept in it for undo.
const (
	maxWritten = 64 << 20
	maxRemoved = 256 << 20
)

// Plan proposes what the package manager and the uninstallers would do.
func (f removeTools) Plan(ctx context.Context, g *guest.Guest) (fixes.Proposal, error) {
	p := &planner{fs: g.FS, facts: g.Facts}
	if !f.on {
		return fixes.Proposal{}, nil
	}
	r := &removal{planner: p}
	r.choose()
	if len(r.steps) == 0 && !r.rpm {
		return fixes.Proposal{Notes: p.notes}, nil
	}
	var ok bool
	if r.trier, ok = g.Run.(guest.Trier); !ok {
		p.note("nothing was removed: the guest's programs cannot be tried here; what there is is switched off instead")
		return fixes.Proposal{Notes: p.notes}, nil
	}
	if err := r.perform(ctx); err != nil {
		return fixes.Proposal{Notes: p.notes}, fmt.Errorf("plan removal of tools: %w", err)
	}
	return fixes.Proposal{Changes: p.changes, Notes: p.notes}, nil
}

// removal is one run of Plan.
type removal struct {
	*planner
	trier guest.Trier
	steps []step
	rpm   bool // what is installed is asked of rpm itself
}

// step is something to remove, with the program that does.
type step struct {
	name    string
	command guest.Command
}

// choose lists what can be removed. The makers' uninstallers come first: they
// put back configuration that they had set aside.
func (r *removal) choose() {
	r.chooseVendor()
	for _, db := range []struct {
		name    string
		list    func(guest.FS) ([]packages.Package, error)
		command func(names ...string) guest.Command
	}{
		{"dpkg", packages.Dpkg, func(names ...string) guest.Command {
			return guest.Command{Args: append([]string{"dpkg", "--purge"}, names...), Env: []string{"DEBIAN_FRONTEND=noninteractive"}}
		}},
		{"apk", packages.Apk, func(names ...string) guest.Command {
			return guest.Command{Args: append([]string{"apk", "del", "--no-network"}, names...)}
		}},
		{"pacman", packages.Pacman, func(names ...string) guest.Command {
			return guest.Command{Args: append([]string{"pacman", "-R", "--noconfirm"}, names...)}
		}},
	} {
		installed, err := db.list(r.fs)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			r.note("the packages that %s has installed cannot be read; none was removed: %v", db.name, err)
			continue
		}
		names, kept := packages.Removable(installed, isTool)
		for _, k := range kept {
			r.note("%s is kept: %s needs it", k.Name, k.By)
		}
		if len(names) > 0 {
			r.steps = append(r.steps, step{strings.Join(names, " "), db.command(names...)})
		}
	}
	r.rpm = r.any("usr/lib/sysimage/rpm", "var/lib/rpm/Packages", "var/lib/rpm/rpmdb.sqlite", "var/lib/rpm/Packages.db") && r.any("usr/bin/rpm", "bin/rpm")
}

// isTool reports whether a package holds tools of another hypervisor. Libraries
// of theirs that have other users, and the agents of clouds, are not among them.
func isTool(name string) bool {
	for _, prefix := range []string{"vmware-tools-", "kmod-vmware-tools", "virtualbox-guest-", "virtualbox-kmp-", "open-vm-tools-", "xe-guest-utilities-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{"open-vm-tools", "VMwareTools", "vmware-tools", "vmware-guestd", "open-vm-dkms", "open-vm-tools-dkms",
		"xe-guest-utilities", "xen-guest-agent", "xenserver-guest-utilities",
		"hyperv-daemons", "hyperv-daemons-license", "hypervkvpd", "hypervvssd", "hypervfcopyd", "hyperv-tools", "hvtools",
		"microsoft-hyper-v", "kmod-microsoft-hyper-v", "kmod-microsoft-hyper-v-PAE"}, name)
}

// vmwareAnswers keep VMware's uninstaller from making an initramfs, and from
// putting back the one that it has set aside: it reads them from its record of
// what was asked when it was installed.
const vmwareAnswers = `printf 'remove_answer RESTORE_RAMDISK_CMD\nremove_answer RESTORE_RAMDISK_ONECALL\n' >>/etc/vmware-tools/locations && exec /usr/bin/vmware-uninstall-tools.pl`

// chooseVendor lists the makers' own uninstallers.
func (r *removal) chooseVendor() {
	shell := func(name, text string) {
		r.steps = append(r.steps, step{name, guest.Command{Args: []string{"/bin/sh", "-c", text}}})
	}
	if r.exists("usr/bin/vmware-uninstall-tools.pl") && r.exists("etc/vmware-tools/locations") {
		shell("VMware Tools", vmwareAnswers)
	}
	if data, ok := r.read("var/lib/VBoxGuestAdditions/config"); ok {
		v := shellvars.Parse(data).Last("INSTALL_DIR")
		if v != nil && strings.HasPrefix(v.Value, "/") && plainPath(v.Value) && r.exists(path.Join(v.Value, "uninstall.sh")[1:]) {
			shell("VirtualBox Guest Additions", "exec "+path.Join(v.Value, "uninstall.sh"))
		}
	}
	if r.exists("usr/lib/parallels-tools/install") {
		shell("Parallels Tools", "exec /usr/lib/parallels-tools/install -r")
	}
}

// plainPath reports whether a path can stand in a shell's command as it is.
func plainPath(s string) bool { return plainValue.MatchString(s) && !strings.Contains(s, "..") }

// perform tries the steps, each alone first: one that fails is left out, and
// said. What then is tried in one go is what happens.
func (r *removal) perform(ctx context.Context) error {
	if r.rpm {
		if err := r.chooseRPM(ctx); err != nil {
			return err
		}
	}
	var commands []guest.Command
	var names []string
	var effects []guest.Effect
	for _, s := range r.steps {
		e, output, err := r.trier.Try(ctx, maxWritten, append(slices.Clone(commands), s.command)...)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.note("%s is kept and switched off: %v: %s", s.name, err, lastLine(output))
			continue
		}
		commands, effects = append(commands, s.command), e
		names = append(names, s.name)
	}
	if len(names) == 0 {
		return nil
	}
	return r.propose(names, effects)
}

// chooseRPM asks rpm, whose database only it can read, in a trial.
func (r *removal) chooseRPM(ctx context.Context) error {
	_, output, err := r.trier.Try(ctx, maxWritten, guest.Command{Args: []string{"rpm", "-qa", "--qf", `%{NAME}\n`}})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.note("the packages that rpm has installed cannot be read; none was removed: %v", err)
		return nil
	}
	var names []string
	for _, name := range strings.Fields(string(output)) {
		if isTool(name) && plainPath(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		r.steps = append(r.steps, step{strings.Join(names, " "), guest.Command{Args: append([]string{"rpm", "-e"}, names...)}})
	}
	return nil
}

func lastLine(output []byte) string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(output), "?")), "\n")
	return lines[len(lines)-1]
}

// propose makes changes of what the programs did, unless that is more than undo
// should keep.
func (r *removal) propose(names []string, effects []guest.Effect) error {
	var kept int64
	files := 0
	for _, e := range effects {
		if passing(e.Name) {
			continue
		}
		if info, err := r.fs.Lstat(e.Name); err == nil && info.Mode().IsRegular() {
			kept += info.Size()
		}
		c, err := change(e, "of "+strings.Join(names, " "))
		if err != nil {
			r.changes = nil
			r.note("nothing was removed, since undo could not bring it back: %v", err)
			return nil
		}
		if c != nil {
			files++
			r.changes = append(r.changes, c)
		}
	}
	if kept > maxRemoved || kept > r.room() {
		r.changes = nil
		r.note("nothing was removed, but switched off: undo would have to keep %d bytes of it in the guest", kept)
		return nil
	}
	r.note("removed: %s (%d files and folders)", strings.Join(names, ", "), files)
	return nil
}

// room is what the backups of a removal may take of the root file system: half
// of what is free there. Where nobody knows, it is as much as there may be.
func (r *removal) room() int64 {
	for _, m := range r.facts.Mounts {
		if m.Point == "/" {
			return m.Free / 2
		}
	}
	return maxRemoved
}

// passing reports whether a file is nobody's property: logs, temporary files,
// caches that hold times and would make each run differ, copies of a database as
// it was.
func passing(name string) bool {
	for _, dir := range []string{"tmp", "run", "dev", "proc", "sys", "var/tmp", "var/run", "var/log", "var/cache/ldconfig", "var/cache/apt"} {
		if strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	copied := strings.HasSuffix(name, "-old") && (strings.HasPrefix(name, "var/lib/dpkg/") || strings.HasPrefix(name, "var/cache/debconf/"))
	return copied || strings.HasPrefix(name, "var/lib/rpm/__db") || strings.HasPrefix(name, "var/lib/rpm/.rpm.lock")
}

// change is what makes an effect happen; nil for an empty folder, which no
// program misses.
func change(e guest.Effect, note string) (fixes.Change, error) {
	switch mode := e.Attr.Mode; {
	case e.Gone:
		return fixes.Remove{Name: e.Name, Note: note}, nil
	case mode&fs.ModeSymlink != 0:
		return fixes.Symlink{Name: e.Name, To: e.Target}, nil
	case mode.IsDir():
		return nil, nil
	case mode.IsRegular():
		attr := e.Attr
		return fixes.WriteFile{Name: e.Name, Content: e.Content, Attr: &attr}, nil
	}
	return nil, fmt.Errorf("%s became neither a file nor a link", e.Name)
}

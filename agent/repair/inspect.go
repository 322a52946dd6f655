package repair

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/blockdev"
	"hyper2kvm/agent/blockdev/probe"
	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
)

// inspect puts the guest together and finds out what it is.
func (r *run) inspect(ctx context.Context) error {
	r.session = &session{need: r.cfg.Need, rw: r.writes()}
	var nodes []string
	for _, s := range r.plan.Sources {
		nodes = append(nodes, s.Path)
	}
	devices, err := blockdev.Scan(ctx, nodes, blockdev.Config{Need: r.cfg.Need, Keys: r.cfg.Keys, Log: r.cfg.Log})
	r.session.devices = devices
	if err != nil {
		return api.NewError(api.CodeSourceRead, "scan disks", r.plan.Name, err)
	}
	for _, w := range devices.Warnings {
		r.warn("%s", w)
	}
	for _, uuid := range devices.Unlocked {
		r.notice("encrypted volume %s is open", uuid)
	}
	given := &guest.Facts{
		Disks: devices.Disks, Filesystems: slices.Clone(devices.Filesystems), Warnings: slices.Clone(devices.Warnings),
		Firmware: r.plan.Machine.Firmware, TargetBus: "virtio",
	}
	for _, n := range r.plan.Machine.NICs {
		given.NICs = append(given.NICs, guest.NIC{MAC: n.MAC, Was: n.Was, Addresses: n.Addresses})
	}
	if err := r.checkHibernation(given.Filesystems); err != nil {
		return err
	}
	if err := r.mountGuest(ctx, given); err != nil {
		return err
	}
	if err := r.checkBefore(ctx); err != nil {
		return err
	}
	return r.collect(given)
}

// collect makes the facts of what is mounted.
func (r *run) collect(given *guest.Facts) error {
	if err := r.session.measure(); err != nil {
		return api.NewError(api.CodeSourceRead, "measure free space", r.plan.Name, err)
	}
	for _, m := range r.session.mounts {
		given.Mounts = append(given.Mounts, m.facts)
	}
	r.facts = inspect.Inspect(r.session.root, *given)
	r.report.Guest = r.facts
	for _, w := range r.facts.Warnings[len(given.Warnings):] {
		r.warn("%s", w)
	}
	r.notice("%s, %s, %s, kernels: %d, boots by %s", cmp.Or(r.facts.OS.Name, "unknown system"),
		cmp.Or(r.facts.Arch, "unknown machine"), r.facts.Firmware, len(r.facts.Kernels), r.facts.Loader.Kind)
	return nil
}

// checkHibernation refuses to change a guest that is suspended to disk: the
// memory image would be resumed on file systems that it does not know.
func (r *run) checkHibernation(found []guest.Filesystem) error {
	for i := range found {
		f := &found[i]
		if f.Note != probe.Hibernated {
			continue
		}
		if r.writes() {
			return api.Errorf(api.CodeHibernated, "repair guest", r.plan.Name, "it is suspended to disk: %s holds the image of its memory", sourceName(f))
		}
		r.warn("the guest is suspended to disk: %s holds the image of its memory", sourceName(f))
	}
	return nil
}

// mountGuest mounts the root, and on it what fstab lists.
func (r *run) mountGuest(ctx context.Context, given *guest.Facts) error {
	base, err := os.MkdirTemp(r.cfg.TempDir, "h2k-guest-")
	if err != nil {
		return api.NewError(api.CodeInternal, "make folder to mount on", "", err)
	}
	r.session.base = base
	root, err := r.findRoot(given)
	if err != nil {
		return err
	}
	root.facts.Point = "/"
	if r.session.root, err = mounted.Open(root.at); err != nil {
		return api.NewError(api.CodeInternal, "open guest", root.at, err)
	}
	if root, err = r.namesOfVolumes(ctx, given, root); err != nil {
		return err
	}
	known := len(given.Filesystems)
	r.unlockMore(ctx, given)
	if err := r.checkHibernation(given.Filesystems[known:]); err != nil {
		return err
	}
	data, err := inspect.ReadFile(r.session.root, "etc/fstab")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.warn("read fstab: %v", err)
	}
	entries := inspect.Fstab(data)
	for _, e := range entries {
		if e.Point == "/" {
			root.facts.Spec = e.Spec
		}
	}
	r.mountEntries(given, entries)
	r.mountESP(given)
	return nil
}

// wanted are the folders whose file systems hold what fixes read and write.
func wanted(point string) bool {
	switch point {
	case "/usr", "/var", "/etc", "/opt", "/boot", "/efi", "/boot/efi", "/boot/grub2", "/boot/grub", "/usr/lib", "/usr/share",
		"/var/lib", "/var/log", "/var/tmp", "/var/cache", "/tmp", "/root":
		return true
	}
	return strings.HasPrefix(point, "/boot/")
}

// mountEntries mounts fstab's entries, shortest mount point first. One that does
// not mount is a warning: the guest may get on without.
func (r *run) mountEntries(given *guest.Facts, entries []guest.FstabEntry) {
	entries = slices.DeleteFunc(slices.Clone(entries), func(e guest.FstabEntry) bool { return !wanted(e.Point) })
	slices.SortStableFunc(entries, func(a, b guest.FstabEntry) int { return len(a.Point) - len(b.Point) })
	for _, e := range entries {
		if mountable(e.Type) == "" && e.Type != "auto" {
			continue // tmpfs, bind, nfs
		}
		f, ok := given.ResolveAs(e.Spec, e.Type)
		if !ok {
			r.warn("%s on %s: no disk of the guest has it", e.Spec, e.Point)
			continue
		}
		var extra []string
		for _, o := range e.Options {
			if strings.HasPrefix(o, "subvol=") || strings.HasPrefix(o, "subvolid=") {
				extra = append(extra, o)
			}
		}
		if len(extra) == 0 && r.session.isMounted(f) {
			continue
		}
		if err := r.session.mountBelow(f, e.Point, extra...); err != nil {
			r.warn("%v", err)
			continue
		}
		last := r.session.mounts[len(r.session.mounts)-1]
		last.facts.Spec = e.Spec
	}
}

func (s *session) isMounted(f *guest.Filesystem) bool {
	return slices.ContainsFunc(s.mounts, func(m *mount) bool { return m.fs.Device == f.Device })
}

// espType is the partition type of an EFI system partition, by GPT and by MBR
// (UEFI specification 2.10 table 5.7 and section 5.2.2).
func espType(kind string) bool {
	return kind == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" || kind == "0xef"
}

// mountESP mounts an EFI system partition that fstab does not list, where
// systemd-gpt-auto-generator(8) would or the boot loader's installer had it.
func (r *run) mountESP(given *guest.Facts) {
	for _, d := range given.Disks {
		for _, p := range d.Partitions {
			if !espType(p.Type) {
				continue
			}
			i := slices.IndexFunc(given.Filesystems, func(f guest.Filesystem) bool { return f.Disk == d.Index && f.Partition == p.Number })
			if i < 0 || r.session.isMounted(&given.Filesystems[i]) {
				continue
			}
			for _, point := range []string{"boot/efi", "efi"} {
				info, err := r.session.root.Stat(point)
				if err != nil || !info.IsDir() {
					continue
				}
				if err := r.session.mountBelow(&given.Filesystems[i], "/"+point); err != nil {
					r.warn("%v", err)
				}
				return
			}
		}
	}
}

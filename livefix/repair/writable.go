package repair

import (
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/initramfs"
	"hyper2kvm/livefix/sshguest"
)

// Room that a repair needs, in bytes and inodes: a generator writes a whole new
// initramfs beside the old one, and its temporary files.
const (
	mib           = 1 << 20
	rootGenerator = 100 * mib
	bootGenerator = 50 * mib
	rootOther     = 20 * mib
	bootOther     = 10 * mib
	elsewhere     = 1 * mib
	minInodes     = 100
)

// writable refuses, before anything is written, a guest whose file systems are
// read-only where something has to be written, or full.
func (r *run) writable(planned *fixes.Planned) error {
	if !planned.Pending() {
		return nil
	}
	for _, m := range r.touchedMounts(planned) {
		if sshguest.ReadOnly(m) {
			return api.Errorf(api.CodeGuestReadOnly, "repair", r.report.Name, "%s is mounted read-only in the guest", m.Point)
		}
		need := r.need(m.Point)
		if m.Free < need {
			return api.Errorf(api.CodeGuestSpace, "repair", r.report.Name, "%d MiB are free on %s, %d MiB are needed", m.Free/mib, m.Point, need/mib)
		}
		if m.Inodes >= 0 && m.Inodes < minInodes {
			return api.Errorf(api.CodeGuestSpace, "repair", r.report.Name, "%d inodes are free on %s, %d are needed", m.Inodes, m.Point, minInodes)
		}
	}
	return nil
}

func (r *run) need(point string) int64 {
	generates := r.Fix.Initramfs == "" || r.Fix.Initramfs == initramfs.Regenerate
	switch {
	case point == "/" && generates:
		return rootGenerator
	case point == "/":
		return rootOther
	case point == "/boot" && generates:
		return bootGenerator
	case point == "/boot":
		return bootOther
	}
	return elsewhere
}

// touchedMounts lists the mounts that something is written on: the journal's,
// and those of the files.
func (r *run) touchedMounts(planned *fixes.Planned) []guest.Mount {
	names := append(changed(planned), "var/lib/hyper2kvm/journal.json")
	var out []guest.Mount
	for i := range r.facts.Mounts {
		m := &r.facts.Mounts[i]
		for _, name := range names {
			if r.mountOf("/"+name) == m {
				out = append(out, *m)
				break
			}
		}
	}
	return out
}

// mountOf finds the mount that a path lies on.
func (r *run) mountOf(name string) *guest.Mount {
	var best *guest.Mount
	for i := range r.facts.Mounts {
		m := &r.facts.Mounts[i]
		if name != m.Point && !strings.HasPrefix(name, strings.TrimSuffix(m.Point, "/")+"/") {
			continue
		}
		if best == nil || len(m.Point) > len(best.Point) {
			best = m
		}
	}
	return best
}

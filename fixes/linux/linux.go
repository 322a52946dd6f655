// Package linux repairs Linux guests so that they boot and keep their network
// on KVM: device names, kernel command lines, boot loaders, interface names.
//
// Every fix edits files in place and no more of them than needed; none runs a
// program of the guest. What a fix cannot decide it leaves, and says so in a
// note.
package linux

import (
	"context"
	"fmt"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// Options steer the fixes.
type Options struct {
	// Devices is what a device name becomes: "uuid" (also ""), "partuuid" or
	// "label". Where a device has none, or one that is not unique, another of
	// the three is taken.
	Devices string
	// RemoveTools removes the tools of other hypervisors with the guest's own
	// package manager, instead of switching them off.
	RemoveTools bool
	// Agent is a package of the QEMU guest agent, and those that it depends on,
	// which the guest installs when it starts on KVM for the first time.
	Agent []Package
}

// Package is a file for the guest's package manager.
type Package struct {
	Name    string // "qemu-guest-agent_7.2_amd64.deb"
	Content []byte
}

// All lists the fixes of a Linux guest in the order in which they must run.
// What decides which files an initramfs carries stands before initramfs, the
// boot loader after it.
func All(opts Options, initramfs []fixes.Fix) []fixes.Fix {
	list := []fixes.Fix{
		removeTools{opts.RemoveTools},
		tools(),
		hypervisorTools(),
		cloudAgents(),
		timeSources(),
		clockArgs(),
		guestAgent(opts),
		modprobe(),
		kdump(opts),
		xorg(),
		special(),
		fstab(opts),
		crypttab(opts),
		resume(opts),
		network(),
		cloudInit(),
		lvm(),
		kernelChoice(),
		mdadm(),
		multipath(),
		caches(),
		serviceDevices(opts),
		grub(opts),
		alpineModules(),
		serialConsole(),
	}
	list = append(list, initramfs...)
	return append(list, fallbackLoader(opts), unifiedImages(opts), loaderCheck())
}

// fix is a fixes.Fix made of functions.
type fix struct {
	id, why string
	applies func(*guest.Facts) bool // nil applies to every Linux guest
	plan    func(*planner) error
}

// ID returns the stable name.
func (f fix) ID() string { return f.id }

// Why says what breaks without the fix.
func (f fix) Why() string { return f.why }

// Applies reports whether the guest is a Linux guest that calls for it.
func (f fix) Applies(facts *guest.Facts) bool {
	return facts.OS.Family == "linux" && (f.applies == nil || f.applies(facts))
}

// Plan proposes the changes.
func (f fix) Plan(_ context.Context, g *guest.Guest) (fixes.Proposal, error) {
	p := &planner{fs: g.FS, facts: g.Facts}
	if err := f.plan(p); err != nil {
		return fixes.Proposal{}, fmt.Errorf("plan %s: %w", f.id, err)
	}
	noteStores(p)
	return fixes.Proposal{Changes: p.changes, Notes: p.notes}, nil
}

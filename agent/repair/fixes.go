package repair

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/canary"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux"
	"hyper2kvm/fixes/linux/initramfs"
)

// fixes lists what this plan may do to the guest.
func (r *run) fixes() ([]fixes.Fix, error) {
	if r.plan.Fix.Canary {
		if r.cfg.Canary == "" {
			return nil, api.Errorf(api.CodeInternal, "plant canary", r.plan.Name, "this machine does not carry its program")
		}
		program, err := os.ReadFile(r.cfg.Canary)
		if err != nil {
			return nil, api.NewError(api.CodeInternal, "plant canary", r.plan.Name, err)
		}
		return []fixes.Fix{plant{program}}, nil
	}
	opts, err := r.options()
	if err != nil {
		return nil, err
	}
	drivers := initramfs.Fixes(initramfs.Options{Mode: r.plan.Fix.Initramfs})
	return linux.All(opts, drivers), nil
}

// options are those of the plan for a Linux guest.
func (r *run) options() (linux.Options, error) {
	o := r.plan.Fix
	opts := linux.Options{Devices: o.Devices, RemoveTools: o.RemoveTools}
	if err := o.LoadAgent(); err != nil {
		return opts, err
	}
	if len(o.AgentContents) != len(o.AgentPackages) {
		return opts, api.Errorf(api.CodeUsage, "read packages of the guest agent", r.plan.Name, "%d contents for %d files", len(o.AgentContents), len(o.AgentPackages))
	}
	for i, name := range o.AgentPackages {
		opts.Agent = append(opts.Agent, linux.Package{Name: filepath.Base(name), Content: o.AgentContents[i]})
	}
	if o.RemoveTools && r.cfg.Need != nil {
		// Programs are tried on an overlay in memory.
		if err := r.cfg.Need("overlay"); err != nil {
			return opts, api.NewError(api.CodeInternal, "prepare removal of tools", r.plan.Name, err)
		}
	}
	return opts, nil
}

// plant puts the canary into a guest.
type plant struct{ program []byte }

func (plant) ID() string { return "canary" }
func (plant) Why() string {
	return "Tells the host that the guest has booted, on a throw-away overlay."
}
func (plant) Applies(*guest.Facts) bool { return true }

// Plan proposes the canary's files; a guest that cannot start it is not to be
// touched.
func (p plant) Plan(_ context.Context, g *guest.Guest) (fixes.Proposal, error) {
	changes, err := canary.Changes(p.program, g.Facts)
	if errors.Is(err, canary.ErrInit) {
		return fixes.Proposal{Notes: []string{err.Error()}}, nil
	}
	return fixes.Proposal{Changes: changes}, err
}

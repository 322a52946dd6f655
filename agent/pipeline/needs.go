package pipeline

import (
	"hyper2kvm/agent/api"
	"hyper2kvm/agent/domain"
	"hyper2kvm/agent/host"
)

// fitMachine gives the domain what inspection found that the guest needs, and
// returns the bus that its disks are attached to.
func (r *run) fitMachine(cfg *domain.Config) (bus string) {
	g := r.report.Guest
	if g == nil {
		return "virtio"
	}
	cfg.CPU = g.Needs.CPU
	cfg.Transitional = g.Needs.Virtio == "transitional"
	if g.Needs.Machine != "" {
		cfg.Machine = g.Needs.Machine
	}
	if need, have := levelOf(cfg.CPU), host.Level(); need > have && have > 0 {
		r.warn(api.Convert, "the guest needs a processor of level %s, and this host's has %d: it starts on a newer host only", cfg.CPU, have)
	}
	switch g.TargetBus {
	case "scsi", "sata":
		return g.TargetBus
	case "ide":
		return "sata" // which is IDE on a pc machine
	}
	return "virtio"
}

// levelOf is the number of an x86-64 level.
func levelOf(name string) int {
	return map[string]int{"x86-64-v2": 2, "x86-64-v3": 3, "x86-64-v4": 4}[name]
}

// validateNIC is QEMU's device for libvirt's model of a card.
func validateNIC(model string) string {
	if model == "virtio" {
		return ""
	}
	return model
}

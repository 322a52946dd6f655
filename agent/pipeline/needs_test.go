package pipeline

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/domain"
	"hyper2kvm/fixes/guest"
)

// TestMachineFitsTheGuest has what inspection finds in the domain, and the boot
// for proof in the same machine.
func TestMachineFitsTheGuest(t *testing.T) {
	kernel := func(buses ...string) []guest.Kernel {
		return []guest.Kernel{{Version: "1", Default: true, Support: guest.Support{Buses: buses}}}
	}
	for name, test := range map[string]struct {
		facts guest.Facts
		bus   string
		want  domain.Config
		tries []string
	}{
		"nothing special": {guest.Facts{TargetBus: "virtio"}, "virtio", domain.Config{Machine: "q35"}, []string{"virtio-blk", "virtio-scsi"}},
		"RHEL 9": {guest.Facts{TargetBus: "virtio", Kernels: kernel("virtio", "scsi", "sata"), Needs: guest.Needs{CPU: "x86-64-v2"}},
			"virtio", domain.Config{Machine: "q35", CPU: "x86-64-v2"}, []string{"virtio-blk", "virtio-scsi"}},
		"RHEL 5": {guest.Facts{TargetBus: "virtio", Kernels: kernel("virtio", "sata"), Needs: guest.Needs{Virtio: "transitional"}},
			"virtio", domain.Config{Machine: "q35", Transitional: true}, []string{"virtio-blk"}},
		"RHEL 4": {guest.Facts{TargetBus: "ide", Kernels: kernel("ide"), Needs: guest.Needs{Machine: "pc", Virtio: "transitional", NIC: "e1000"}},
			"sata", domain.Config{Machine: "pc", Transitional: true}, []string{"sata"}},
	} {
		r := &run{plan: &api.Plan{}, report: &api.Report{Guest: &test.facts}}
		cfg := domain.Config{Machine: "q35"}
		if bus := r.fitMachine(&cfg); bus != test.bus {
			t.Errorf("%s: bus %q, want %q", name, bus, test.bus)
		}
		if diff := cmp.Diff(test.want, cfg); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := r.buses(); !slices.Equal(got, test.tries) {
			t.Errorf("%s: tried on %v, want %v", name, got, test.tries)
		}
		try := r.bootConfig(r.buses()[0], t.TempDir())
		if try.Machine != test.facts.Needs.Machine || try.NICModel != test.facts.Needs.NIC {
			t.Errorf("%s: tried in %+v", name, try)
		}
	}
}

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/agent/api"
)

// broken are the guests that KVM cannot boot, and what must be true of each
// after the repair.
var broken = []struct {
	name     string
	firmware string
	nic      string // the name that the interface keeps
	address  string // the address that it keeps
	before   api.VerdictState
	why      string // what the verdict before says, among other things
	fixes    []string
}{
	{"debian12-bios", "bios", "ens192", "10.0.2.50/24", api.Emergency, "(initramfs)", []string{"linux/fstab", "linux/grub", "linux/network"}},
	{"debian13-uefi", "uefi", "", "10.0.2.60/24", api.NoLoader, "", []string{"linux/fstab", "linux/uefi-fallback"}},
}

func TestGuestIsDeadBefore(t *testing.T) {
	t.Parallel()
	for _, g := range broken {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel() // a dead guest mostly waits
			src := guest(t, g.name)
			unchanged(t, src)
			args, buses := []string{"validate", src, "--json"}, 2
			if !everything() {
				args, buses = append(args, "--bus", "virtio-blk"), 1
			}
			r := h2k(t, args...).want(t, 4)
			if len(r.report.Verdicts) != buses {
				t.Errorf("%d verdicts, want %d", len(r.report.Verdicts), buses)
			}
			for _, v := range r.report.Verdicts {
				if v.State != g.before || !strings.Contains(v.Why, g.why) {
					t.Errorf("%s: %s: %s; want %s with %q", v.Bus, v.State, v.Why, g.before, g.why)
				}
			}
		})
	}
}

// Not beside others: two guests boot at once, and have their own patience.
func TestGuestBootsAfterConvert(t *testing.T) {
	for _, g := range broken {
		t.Run(g.name, func(t *testing.T) {
			src := guest(t, g.name)
			unchanged(t, src)
			dir := t.TempDir()
			out := filepath.Join(dir, "guest.qcow2")
			r := h2k(t, "convert", src, "-o", out, "--validate", "--json").want(t, 0)
			if len(r.report.Verdicts) != 2 {
				t.Fatalf("%d verdicts, want one for virtio-blk and one for virtio-scsi", len(r.report.Verdicts))
			}
			for _, v := range r.report.Verdicts {
				checkVerdict(t, v, g.nic, g.address)
			}
			for _, id := range g.fixes {
				if !changed(r.report.Fixes, id) {
					t.Errorf("%s is not among the repairs: %+v", id, r.report.Fixes)
				}
			}
			checkOutputs(t, dir, out, g.firmware)
			secondRunChangesNothing(t, out)
		})
	}
}

func checkVerdict(t *testing.T, v api.Verdict, nic, address string) {
	t.Helper()
	if v.State != api.Booted {
		t.Errorf("%s: %s: %s", v.Bus, v.State, v.Why)
		return
	}
	if len(v.FailedUnits) > 0 {
		t.Errorf("%s: failed units: %s", v.Bus, strings.Join(v.FailedUnits, ", "))
	}
	for _, i := range v.Interfaces {
		if (nic == "" || i.Name == nic) && contains(i.Addresses, address) {
			return
		}
	}
	t.Errorf("%s: no interface %q with %s: %+v", v.Bus, nic, address, v.Interfaces)
}

func changed(list []api.FixReport, id string) bool {
	for _, f := range list {
		if f.ID == id && f.State == "changed" {
			return true
		}
	}
	return false
}

// checkOutputs looks at what lies beside the result.
func checkOutputs(t *testing.T, dir, out, firmware string) {
	t.Helper()
	if msg, err := exec.Command("qemu-img", "check", out).CombinedOutput(); err != nil {
		t.Errorf("qemu-img check: %v\n%s", err, msg)
	}
	xml, err := os.ReadFile(filepath.Join(dir, "guest.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Contains(string(xml), "firmware='efi'") || strings.Contains(string(xml), `firmware="efi"`); got != (firmware == "uefi") {
		t.Errorf("domain XML has UEFI: %v; the guest is %s\n%s", got, firmware, xml)
	}
	if !strings.Contains(string(xml), "<interface ") {
		t.Errorf("the domain has no network card:\n%s", xml)
	}
	nothingLeft(t, dir, "guest.qcow2", "guest.xml", "guest.report.json", "guest.report.html",
		"guest.virtio-blk.png", "guest.virtio-blk.console.txt", "guest.virtio-scsi.png", "guest.virtio-scsi.console.txt")
	for _, f := range []string{"guest.report.json", "guest.report.html", "guest.virtio-blk.png"} {
		if s, err := os.Stat(filepath.Join(dir, f)); err != nil || s.Size() == 0 {
			t.Errorf("%s is missing or empty: %v", f, err)
		}
	}
}

func secondRunChangesNothing(t *testing.T, disks ...string) {
	t.Helper()
	r := h2k(t, append([]string{"fix", "--dry-run", "--json"}, disks...)...).want(t, 0)
	for _, f := range r.report.Fixes {
		if f.State != "unchanged" && f.State != "skipped" {
			t.Errorf("a second run would change %s:\n%s", f.ID, f.Diff)
		}
	}
}

// TestRegeneratedInitramfsBoots has the guest's own generator make the image,
// inside the helper VM.
func TestRegeneratedInitramfsBoots(t *testing.T) {
	t.Parallel()
	src := guest(t, "debian12-bios")
	unchanged(t, src)
	out := filepath.Join(t.TempDir(), "guest.qcow2")
	r := h2k(t, "convert", src, "-o", out, "--initramfs", "regenerate", "--validate", "--bus", "virtio-scsi", "--json").want(t, 0)
	for _, f := range r.report.Fixes {
		if f.ID == "linux/initramfs" && !strings.Contains(f.Diff, "update-initramfs") {
			t.Errorf("the generator was not run:\n%s", f.Diff)
		}
	}
	for _, v := range r.report.Verdicts {
		checkVerdict(t, v, "ens192", "10.0.2.50/24")
	}
}

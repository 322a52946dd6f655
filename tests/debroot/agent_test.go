//go:build debroot

package debroot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
	"hyper2kvm/fixes/linux"
)

// TestAgentPackage stages the guest agent's package and does by hand what the
// first boot does: first on the old hypervisor, then with the agent's channel.
func TestAgentPackage(t *testing.T) {
	dir, root := system(t)
	if out := dpkg(t, dir, "--purge", "qemu-guest-agent"); strings.Contains(dpkg(t, dir, "-l", "qemu-guest-agent"), "\nii ") {
		t.Fatalf("the agent is still installed: %s", out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "root/qemu-guest-agent_*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("packages of the agent: %v, %v", debs, err)
	}
	content, err := os.ReadFile(debs[0])
	if err != nil {
		t.Fatal(err)
	}
	g := &guest.Guest{FS: root, Facts: inspect.Inspect(root, guest.Facts{})}
	opts := linux.Options{Agent: []linux.Package{{Name: filepath.Base(debs[0]), Content: content}}}
	if err := fixes.Apply(t.Context(), g, plan(t, g, opts), nil); err != nil {
		t.Fatal(err)
	}
	boot := func() {
		t.Helper()
		if out, err := exec.Command("chroot", dir, "/usr/local/lib/hyper2kvm/install-agent").CombinedOutput(); err != nil {
			t.Fatalf("install: %v\n%s", err, out)
		}
	}
	boot()
	if got := dpkg(t, dir, "-l", "qemu-guest-agent"); strings.Contains(got, "\nii ") {
		t.Error("the agent was installed on a machine without its channel")
	}
	port := filepath.Join(dir, "sys/class/virtio-ports/vport1p1")
	for _, name := range []string{port, filepath.Join(dir, "sys/bus/virtio/devices/virtio0")} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(port, "name"), []byte("org.qemu.guest_agent.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	boot()
	log, err := os.ReadFile(filepath.Join(dir, "var/log/hyper2kvm-agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	if got := dpkg(t, dir, "-l", "qemu-guest-agent"); !strings.Contains(got, "\nii  qemu-guest-agent") {
		t.Errorf("the agent is not installed:\n%s\n%s", got, log)
	}
	for _, name := range []string{"usr/local/lib/hyper2kvm", "etc/systemd/system/hyper2kvm-agent.service", "etc/systemd/system/multi-user.target.wants/hyper2kvm-agent.service"} {
		if _, err := root.Lstat(name); err == nil {
			t.Errorf("%s is still there:\n%s", name, log)
		}
	}
	if again := plan(t, g, opts); again.Pending() {
		for _, r := range again.Results {
			if r.ID == "linux/guest-agent" && r.State == fixes.Pending {
				t.Errorf("a run after it wants more:\n%s", r.Diff)
			}
		}
	}
}

//go:build debroot

package debroot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
	"hyper2kvm/fixes/linux"
)

// stage removes packages and puts that of the agent into the guest, as a plan
// does that names it.
func stage(t *testing.T, dir string, root *mounted.Root, remove ...string) (*guest.Guest, linux.Options) {
	t.Helper()
	for _, name := range remove {
		if out := dpkg(t, dir, "--purge", name); strings.Contains(dpkg(t, dir, "-l", name), "\nii ") {
			t.Fatalf("%s is still installed: %s", name, out)
		}
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
	return g, opts
}

// boot does by hand what the first boot does, without a network.
func boot(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command("unshare", "--net", "chroot", dir, "/usr/local/lib/hyper2kvm/install-agent").CombinedOutput(); err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
}

// makeChannel makes the machine one of KVM, as far as the script can see.
func makeChannel(t *testing.T, dir string) {
	t.Helper()
	port := filepath.Join(dir, "sys/class/virtio-ports/vport1p1")
	for _, name := range []string{port, filepath.Join(dir, "sys/bus/virtio/devices/virtio0")} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(port, "name"), []byte("org.qemu.guest_agent.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestAgentPackage stages the guest agent's package and boots: first on the old
// hypervisor, then with the agent's channel.
func TestAgentPackage(t *testing.T) {
	dir, root := system(t)
	g, opts := stage(t, dir, root, "qemu-guest-agent")
	boot(t, dir)
	if got := dpkg(t, dir, "-l", "qemu-guest-agent"); strings.Contains(got, "\nii ") {
		t.Error("the agent was installed on a machine without its channel")
	}
	makeChannel(t, dir)
	boot(t, dir)
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
	for _, r := range plan(t, g, opts).Results {
		if r.ID == "linux/guest-agent" && r.State == fixes.Pending {
			t.Errorf("a run after it wants more:\n%s", r.Diff)
		}
	}
}

// TestAgentPackageThatLacksSomething boots a guest without a library that the
// agent needs: dpkg must not be left with a package that is half installed.
func TestAgentPackageThatLacksSomething(t *testing.T) {
	dir, root := system(t)
	stage(t, dir, root, "qemu-guest-agent", "liburing2")
	makeChannel(t, dir)
	boot(t, dir)
	log, err := os.ReadFile(filepath.Join(dir, "var/log/hyper2kvm-agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "the package was not installed") || !strings.Contains(string(log), "liburing2") {
		t.Errorf("the log does not say why:\n%s", log)
	}
	if got := dpkg(t, dir, "--audit"); got != "" {
		t.Errorf("dpkg is left with: %s", got)
	}
	if got := dpkg(t, dir, "-l", "qemu-guest-agent"); strings.Contains(got, "\niU") || strings.Contains(got, "\nii") {
		t.Errorf("the agent is %s", got)
	}
	if _, err := root.Lstat("etc/systemd/system/multi-user.target.wants/hyper2kvm-agent.service"); err == nil {
		t.Error("it would be tried at each boot")
	}
}

package e2e

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/livefix/sshguest/sshguesttest"
)

// liveGuest is a guest that runs on hardware like the one it comes from, and
// whom the test may log in to.
type liveGuest struct {
	vm   *qemu.VM
	wire *sshguesttest.Wire // what the user's connections go through
	port int                // the guest's SSH server, without the wire
	key  string
	auth ssh.Signer
	dir  string
}

// dataDisk is the second disk, which the guest mounts too.
const dataDisk = "data.raw"

// TestLivefix repairs a running guest over SSH, with the network cut in the
// middle, shows that it still boots where it is, moves it, and boots it on virtio.
//
// In `make test` the drivers are injected, and the guest is not booted once more
// where it is: emulated, both take minutes.
func TestLivefix(t *testing.T) {
	src := guest(t, "debian12-bios")
	requireVM(t, "bin/h2k-livefix")
	if os.Geteuid() != 0 {
		t.Skip("putting a key into the guest takes root")
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "web01.raw")
	command(t, "qemu-img", "convert", "-O", "raw", src, disk)
	g := bootSource(t, dir, disk)

	dry := g.livefix(t, "root", "--accept-new", "--dry-run", "--json").want(t, 0)
	checkLiveFacts(t, dry.report)

	g.cutAt(t, "deploy", "linux/grub: boot/grub/grub.cfg")
	start := time.Now()
	done := g.livefix(t, "admin", "--yes", "--sudo-password", "env:SUDO_WORD", "--initramfs", generator(), "--json").want(t, 0)
	t.Logf("the second run took %.1f s: %+v", time.Since(start).Seconds(), done.report.Stages)
	for _, id := range []string{"linux/fstab", "linux/grub", "linux/network", "linux/initramfs"} {
		if !changed(done.report.Fixes, id) {
			t.Errorf("%s is not among the repairs: %+v", id, done.report.Fixes)
		}
	}
	again := g.livefix(t, "root", "--dry-run", "--initramfs", generator(), "--json").want(t, 0)
	for _, f := range again.report.Fixes {
		if f.State == "planned" {
			t.Errorf("a second run would change %s:\n%s", f.ID, f.Diff)
		}
	}

	if everything() {
		g.reboot(t)
	}
	if out := g.ssh(t, "systemctl is-system-running --wait; ip -br address show ens192"); !strings.Contains(out, "10.0.2.50/24") {
		t.Errorf("after the repair the guest came up on its old hardware with:\n%s", out)
	}
	g.powerOff(t)

	// Both disks move: the guest's fstab names the second by its UUID now.
	out := filepath.Join(dir, "moved")
	r := h2k(t, "convert", disk, filepath.Join(dir, dataDisk), "-o", out, "--no-fix", "--validate", "--bus", "virtio-blk", "--json").want(t, 0)
	if len(r.report.Verdicts) != 1 {
		t.Errorf("%d verdicts, want one", len(r.report.Verdicts))
	}
	for _, v := range r.report.Verdicts {
		checkVerdict(t, v, "ens192", "10.0.2.50/24")
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// generator is how the live guest's initramfs is made.
func generator() string {
	if everything() {
		return "regenerate"
	}
	return "inject"
}

// checkLiveFacts compares what the running guest told with how it was built.
func checkLiveFacts(t *testing.T, r api.Report) {
	t.Helper()
	f := r.Guest
	if f == nil {
		t.Fatal("no facts")
	}
	if len(f.Disks) != 2 || f.Disks[0].Table != "dos" || f.Disks[0].TableID != "1a2b3c4d" || f.Disks[0].BootCode != "grub" || len(f.Disks[0].Partitions) != 2 {
		t.Errorf("disks: %+v", f.Disks)
	}
	if len(f.Filesystems) != 3 || f.Filesystems[0].UUID != "0b6c5f3e-7a51-4c1d-9c3b-6f1f5f0a1201" || f.Filesystems[0].PartUUID != "1a2b3c4d-01" ||
		f.Filesystems[1].Type != "swap" {
		t.Errorf("file systems: %+v", f.Filesystems)
	}
	if len(f.Mounts) < 2 || f.Mounts[0].Point != "/" || f.Mounts[0].Spec != "/dev/sda1" || f.Mounts[0].Free == 0 {
		t.Errorf("mounts: %+v", f.Mounts)
	}
	if len(f.NICs) != 1 || f.NICs[0].Name != "ens192" || f.NICs[0].MAC != "00:50:56:01:0c:02" || f.Firmware != "bios" {
		t.Errorf("cards: %+v, firmware %s", f.NICs, f.Firmware)
	}
}

// bootSource lets a key in and boots the disk as VMware would.
func bootSource(t *testing.T, dir, disk string) *liveGuest {
	t.Helper()
	g := &liveGuest{dir: dir, key: filepath.Join(dir, "id"), port: freePort(t)}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err == nil {
		err = os.WriteFile(g.key, pem.EncodeToMemory(block), 0o600)
	}
	if err == nil {
		g.auth, err = ssh.NewSignerFromKey(private)
	}
	if err != nil {
		t.Fatal(err)
	}
	authorize(t, disk, g.auth.PublicKey())
	data := filepath.Join(dir, dataDisk)
	command(t, "truncate", "-s", "64M", data)
	command(t, "sh", "-c", "echo start=1MiB, type=83 | sfdisk --quiet "+data)
	command(t, "mke2fs", "-q", "-F", "-E", "offset=1048576", data, "60M")

	accel, err := qemu.Accelerator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// As in tests/recipes: VMware's controllers in VMware's slots.
	g.vm, err = qemu.Start(t.Context(), qemu.Config{Accel: accel, Args: []string{
		"-cpu", accel.CPU(), "-M", "q35", "-m", "1G", "-smp", "2", "-device", "VGA",
		"-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
		"-device", "pcie-root-port,id=bus2,chassis=2,slot=192,addr=6.0",
		"-device", "pcie-root-port,id=bus3,chassis=3,slot=224,addr=7.0",
		"-device", "pvscsi,id=scsi,bus=bus3", "-drive", "if=none,id=sda,format=raw,cache=unsafe,file=" + disk,
		"-device", "scsi-hd,bus=scsi.0,scsi-id=0,drive=sda,bootindex=1",
		"-drive", "if=none,id=sdb,format=raw,file=" + data, "-device", "ide-hd,bus=ide.0,drive=sdb",
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-10.0.2.50:22", g.port),
		"-device", "vmxnet3,netdev=net,bus=bus2,romfile=,mac=00:50:56:01:0c:02", "-serial", "chardev:" + qemu.ConsoleID,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.vm.Close() })
	g.wire = sshguesttest.NewWire(t, net.JoinHostPort("127.0.0.1", fmt.Sprint(g.port)))
	g.await(t, "")
	return g
}

// authorize lets a key log in as root, admin and deploy.
func authorize(t *testing.T, disk string, key ssh.PublicKey) {
	t.Helper()
	mnt := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "-o", "loop,offset=1048576", disk, mnt)
	defer command(t, "umount", mnt)
	for home, id := range map[string]int{"root": 0, "home/admin": 1000, "home/deploy": 1001} {
		dir := filepath.Join(mnt, home, ".ssh")
		err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "authorized_keys"), ssh.MarshalAuthorizedKey(key), 0o600),
			os.Chown(dir, id, id), os.Chown(filepath.Join(dir, "authorized_keys"), id, id))
		if err != nil {
			t.Error(err)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// bootID is what the guest calls this boot, "" where it does not answer.
func (g *liveGuest) bootID() string {
	out, err := g.command("cat /proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// await waits until the guest can be logged in to, in another boot than the last.
func (g *liveGuest) await(t *testing.T, last string) {
	t.Helper()
	for end := time.Now().Add(8 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
		if id := g.bootID(); id != "" && id != last {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the guest does not come up:\n%s", g.vm.Console())
		}
	}
}

func (g *liveGuest) command(words string) (string, error) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(g.port)), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	c, channels, requests, err := ssh.NewClientConn(conn, "guest", &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(g.auth)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return "", err
	}
	client := ssh.NewClient(c, channels, requests)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	out, err := session.CombinedOutput(words)
	return string(out), err
}

func (g *liveGuest) ssh(t *testing.T, words string) string {
	t.Helper()
	out, err := g.command(words)
	if err != nil {
		t.Logf("%s: %v", words, err)
	}
	return out
}

func (g *liveGuest) reboot(t *testing.T) {
	t.Helper()
	last := g.bootID()
	_, _ = g.command("systemctl reboot") // the connection may end before its answer
	g.await(t, last)
}

func (g *liveGuest) powerOff(t *testing.T) {
	t.Helper()
	_, _ = g.command("systemctl poweroff")
	select {
	case <-g.vm.Done():
	case <-time.After(3 * time.Minute):
		t.Fatalf("the guest does not go down:\n%s", g.vm.Console())
	}
}

// livefixCommand is the binary as a user runs it.
func (g *liveGuest) livefixCommand(ctx context.Context, t *testing.T, user string, args ...string) *exec.Cmd {
	t.Helper()
	all := append([]string{"-F", "none", "-i", g.key, "--known-hosts", filepath.Join(g.dir, "known_hosts"), "--port", fmt.Sprint(g.wire.Port())}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(root, "bin/h2k-livefix"), append(all, user+"@127.0.0.1")...)
	cmd.Env = append(os.Environ(), "SUDO_WORD=hyper2kvm", "SSH_AUTH_SOCK=")
	return cmd
}

func (g *liveGuest) livefix(t *testing.T, user string, args ...string) result {
	t.Helper()
	var out, errs strings.Builder
	cmd := g.livefixCommand(t.Context(), t, user, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := result{code: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: errs.String()}
	_ = json.Unmarshal([]byte(r.stdout), &r.report)
	t.Logf("h2k-livefix %s %s: exit %d after %.1f s", user, strings.Join(args, " "), r.code, time.Since(start).Seconds())
	return r
}

// cutAt repairs, and breaks the network when a line of progress says so.
func (g *liveGuest) cutAt(t *testing.T, user, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := g.livefixCommand(ctx, t, user, "--yes")
	progress, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cut := false
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), line) {
			g.wire.Cut()
			cut = true
		}
	}
	_ = cmd.Wait()
	if !cut || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), string(api.CodeLost)) {
		t.Fatalf("cut: %v; exit code %d\n%s", cut, cmd.ProcessState.ExitCode(), said.String())
	}
}

package e2e

import (
	"bytes"
	"crypto/aes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"

	"hyper2kvm/agent/api"
)

const luksUUID = "2f144f6e-9f3c-4b1a-8d5e-0c7d8e9fa0b1"

// luks encrypts a partition's content. cryptsetup makes the header; the content
// is encrypted here, since a test's kernel may lack dm-crypt: aes-xts-plain64
// numbers sectors of 512 bytes from the start of the payload (LUKS2 on-disk
// format 1.1.0, section 3.3; dm-crypt's documentation).
func luks(t *testing.T, dir, uuid, pass string, content part, format ...string) part {
	t.Helper()
	const sector, header = 512, 16 * mib
	key := bytes.Repeat([]byte("0123456789abcdef"), 4)
	copy(key, uuid)
	img, keyFile := filepath.Join(dir, uuid+".luks"), filepath.Join(dir, uuid+".volumekey")
	if err := os.WriteFile(keyFile, key, 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile(content.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, header+content.size); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"luksFormat", "--batch-mode", "--uuid", uuid, "--cipher", "aes-xts-plain64", "--key-size", "512",
		"--volume-key-file", keyFile, "--offset", fmt.Sprint(header / sector), "--key-file", "-"}, format...)
	cmd := exec.Command("cryptsetup", append(args, img)...)
	cmd.Stdin = strings.NewReader(pass)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cryptsetup: %v\n%s", err, msg)
	}
	cipher, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+sector <= len(plain); i += sector {
		cipher.Encrypt(plain[i:i+sector], plain[i:i+sector], uint64(i/sector))
	}
	f, err := os.OpenFile(img, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(plain, header); err != nil {
		t.Fatal(err)
	}
	return part{img, header + content.size}
}

// quickLUKS2 has little to compute, and still Argon2, which takes memory.
func quickLUKS2() []string {
	return []string{"--type", "luks2", "--sector-size", "512", "--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-parallel", "1", "--pbkdf-force-iterations", "4"}
}

func quickLUKS1() []string {
	return []string{"--type", "luks1", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
}

// volumeGroup makes a physical volume of the group with one volume that has the
// content. It takes no device mapper: lvm only writes its metadata.
func volumeGroup(t *testing.T, dir, group, volume string, content part) part {
	t.Helper()
	img := filepath.Join(dir, group+".pv")
	size := content.size + 8*mib
	script := `set -e
PATH=$PATH:/sbin:/usr/sbin
truncate -s "$2" "$1"
pv=$(losetup --find --show "$1")
trap 'losetup -d "$pv"' EXIT
lvm=(--quiet --driverloaded n --config "devices { use_devicesfile=0 global_filter=[\"a|^$pv\$|\",\"r|.*|\"] external_device_info_source=\"none\" obtain_device_list_from_udev=0 } activation { udev_sync=0 udev_rules=0 } backup { backup=0 archive=0 }")
pvcreate "${lvm[@]}" "$pv"
vgcreate "${lvm[@]}" "$3" "$pv"
lvcreate "${lvm[@]}" --activate n --zero n --wipesignatures n --name "$4" --size "$5"b "$3"
read -r start extent first < <(pvs "${lvm[@]}" --noheadings --nosuffix --units b --segments -o pe_start,vg_extent_size,pvseg_start --select "lv_name=$4" "$pv")
dd if="$6" of="$pv" bs=1M oflag=seek_bytes seek=$((start + extent * first)) conv=notrunc status=none
sync "$1"`
	cmd := exec.Command("bash", "-c", script, "bash", img, fmt.Sprint(size), group, volume, fmt.Sprint(content.size), content.file)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make volume group: %v\n%s", err, out)
	}
	return part{img, size}
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices take root")
	}
}

// long passes a test over that `make test` has no time for: `make test-guests`
// runs it.
func long(t *testing.T) {
	t.Helper()
	if !everything() {
		t.Skip("runs in make test-guests")
	}
}

// TestEncryptedGuestIsRepaired: LVM on LUKS2, the whole way through a key given
// by reference: refused without, looked at, repaired in place, taken back, and
// the secret is nowhere but in what was referred to.
func TestEncryptedGuestIsRepaired(t *testing.T) {
	long(t)
	t.Parallel()
	requireVM(t)
	requireRoot(t)
	const pass = "correct horse battery"
	dir := t.TempDir()
	files := tinyGuest()
	files["etc/fstab"] = "/dev/mapper/vg0-root / ext4 defaults 0 1\n/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part1 /boot ext4 defaults 0 2\n"
	files["etc/crypttab"] = "sda2_crypt /dev/sda2 none luks,discard\n"
	boot := tree{}
	for name, content := range files {
		if in, ok := strings.CutPrefix(name, "boot/"); ok {
			boot[in] = content
			delete(files, name)
		}
	}
	files["boot/.keep"] = ""
	root := ext4(t, dir, "root", files, 256*mib)
	disk := tinyDisk(t, dir, ext4(t, dir, "boot", boot, 64*mib), luks(t, dir, luksUUID, pass, volumeGroup(t, dir, "vg0", "root", root), quickLUKS2()...))

	r := h2k(t, "inspect", disk, "--json")
	r.want(t, 3)
	if r.report.Error == nil || r.report.Error.Code != api.CodeEncrypted || !strings.Contains(r.report.Error.Reason, luksUUID) || !strings.Contains(r.stderr, "--key") {
		t.Errorf("without a key: %+v\n%s", r.report.Error, r.stderr)
	}
	wrong := filepath.Join(dir, "wrong")
	right := filepath.Join(dir, "right")
	for name, text := range map[string]string{wrong: "incorrect", right: pass + "\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r = h2k(t, "inspect", disk, "--json", "--key", "all:file:"+wrong)
	r.want(t, 3)
	if r.report.Error == nil || !strings.Contains(r.report.Error.Reason, "no key that was given opens it") {
		t.Errorf("with a wrong key: %+v", r.report.Error)
	}

	r = h2k(t, "fix", disk, "--dry-run", "--json", "--key", "/dev/sda2:file:"+right)
	before := fixDiffs(t, r)
	checkEncryptedFacts(t, r.report)
	noSecret(t, r, pass)
	for _, want := range []string{"-sda2_crypt /dev/sda2 none", "+sda2_crypt UUID=" + luksUUID + " none luks,discard"} {
		if !strings.Contains(before, want) {
			t.Errorf("the repair lacks %q:\n%s", want, before)
		}
	}
	r = h2k(t, "fix", disk, "--in-place", "--json", "--key", luksUUID+":file:"+right)
	r.want(t, 0)
	noSecret(t, r, pass)
	r = h2k(t, "fix", disk, "--dry-run", "--json", "--key", "all:file:"+right)
	if again := fixDiffs(t, r); again != "" {
		t.Errorf("a second run changes:\n%s", again)
	}
	h2k(t, "undo", disk, "--json", "--key", "all:file:"+right).want(t, 0)
	if after := fixDiffs(t, h2k(t, "fix", disk, "--dry-run", "--json", "--key", "all:file:"+right)); after != before {
		t.Errorf("undo does not give back what was there: the repair was\n%s\nand is\n%s", before, after)
	}
	nothingWith(t, dir, pass, right)
}

func checkEncryptedFacts(t *testing.T, r api.Report) {
	t.Helper()
	g := r.Guest
	if g == nil || g.OS.ID != "debian" || len(g.Mounts) != 2 {
		t.Fatalf("guest %+v", g)
	}
	volumes := map[string]string{}
	for _, f := range g.Filesystems {
		volumes[f.Volume] = f.Type + " " + strings.Join(f.Within, ",")
		if f.UUID == luksUUID && (f.LUKS == nil || !f.LUKS.Opened || f.LUKS.Version != 2 || f.LUKS.Passphrases != 1) {
			t.Errorf("header %+v", f.LUKS)
		}
	}
	// The names are those that the guest has for them.
	if volumes["luks/sda2_crypt"] != "LVM2_member "+luksUUID || volumes["vg0/root"] != "ext4 "+luksUUID {
		t.Errorf("volumes %v", volumes)
	}
}

// fixDiffs are the diffs of all fixes, but for what differs from run to run.
func fixDiffs(t *testing.T, r result) string {
	t.Helper()
	r.want(t, 0)
	var b strings.Builder
	for _, f := range r.report.Fixes {
		b.WriteString(f.Diff)
	}
	return b.String()
}

// noSecret holds that nothing a run prints has the secret.
func noSecret(t *testing.T, r result, pass string) {
	t.Helper()
	if strings.Contains(r.stdout+r.stderr, pass) {
		t.Error("the run prints the secret")
	}
}

// nothingWith holds that no file but those named has the secret.
func nothingWith(t *testing.T, dir, pass string, but ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		if err == nil && bytes.Contains(data, []byte(pass)) && !contains(but, name) {
			t.Errorf("%s holds the secret", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKeyFileInTheGuest: what opens by itself when the guest boots is opened with
// the guest's own key file, here of a LUKS1 volume inside a LUKS1 root.
func TestKeyFileInTheGuest(t *testing.T) { // not parallel: it sets a variable
	requireVM(t)
	requireRoot(t)
	const dataUUID = "5a0c3c0e-11aa-4d5e-9f00-aabbccddeeff"
	dir := t.TempDir()
	files := tinyGuest()
	files["etc/fstab"] = "/dev/mapper/cryptroot / ext4 defaults 0 1\n/dev/mapper/data /var/lib/data ext4 defaults 0 2\n"
	files["etc/crypttab"] = "cryptroot UUID=" + luksUUID + " none luks\ndata /dev/sda2 /etc/keys/data.key luks,keyfile-size=16\n"
	files["etc/keys/data.key"] = "\x00\x01\x02binary\xff key\nand what is not of the key"
	root := luks(t, dir, luksUUID, "opensesame", ext4(t, dir, "root", files, 256*mib), quickLUKS1()...)
	data := luks(t, dir, dataUUID, files["etc/keys/data.key"][:16], ext4(t, dir, "data", tree{"x": "y"}, 32*mib), quickLUKS1()...)
	disk := tinyDisk(t, dir, root, data)
	t.Setenv("H2K_TEST_PASS", "opensesame")
	r := h2k(t, "inspect", disk, "--json", "--key", luksUUID+":env:H2K_TEST_PASS")
	r.want(t, 0)
	var names []string
	for _, f := range r.report.Guest.Filesystems {
		if f.Volume != "" {
			names = append(names, f.Volume+" "+f.Type)
		}
	}
	if strings.Join(names, ", ") != "luks/cryptroot ext4, luks/data ext4" {
		text, err := json.Marshal(r.report.Guest.Filesystems)
		t.Errorf("opened: %v of %s, %v; warnings %v", names, text, err, r.report.Warnings)
	}
}

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSectorsOf4096AreKept repairs a guest on a disk with sectors of 4096
// bytes: the helper VM must see them as the guest did, the machine must be told,
// and a format that cannot hold them is refused.
func TestSectorsOf4096AreKept(t *testing.T) {
	t.Parallel()
	requireVM(t)
	if os.Geteuid() != 0 {
		t.Skip("making a loop device takes root")
	}
	dir := t.TempDir()
	root := ext4(t, dir, "root", tinyGuest(), 256*mib, "-b", "4096")
	disk := filepath.Join(dir, "native.raw")
	script := `set -e
truncate -s 300M "$1"
loop=$(losetup --find --show --sector-size 4096 "$1")
trap 'losetup -d "$loop"' EXIT
printf 'label: gpt\nstart=256, size=65536, type=linux\n' | sfdisk -q "$loop"
dd if="$2" of="$loop" bs=1M seek=1 conv=notrunc status=none`
	if out, err := exec.Command("bash", "-c", script, "bash", disk, root.file).CombinedOutput(); err != nil {
		t.Fatalf("make a disk: %v\n%s", err, out)
	}
	r, out := convertTiny(t, disk)
	r.want(t, 0)
	if !changed(r.report.Fixes, "linux/fstab") {
		t.Errorf("fstab is not repaired: %+v", r.report.Fixes)
	}
	xml, err := os.ReadFile(strings.TrimSuffix(out, ".qcow2") + ".xml")
	if err != nil || !strings.Contains(string(xml), `logical_block_size="4096"`) {
		t.Errorf("the domain does not keep the sector size: %v\n%s", err, xml)
	}
	secondRunChangesNothing(t, out)
	r, out = convertTiny(t, disk, "--no-fix", "--format", "vmdk")
	refusedWith(t, r, out, "H2K-SECTOR-SIZE")
}

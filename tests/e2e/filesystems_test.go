package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestFileSystems repairs a guest on each file system that a root lies on,
// beside ext4 (the other tests) and XFS on LVM (debian13-uefi).
func TestFileSystems(t *testing.T) {
	t.Parallel()
	requireVM(t)
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system takes root")
	}
	for _, kind := range []string{"ext2", "ext3", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			files := tinyGuest()
			files["etc/fstab"] = "/dev/sda1 / " + kind + " defaults 0 1\n"
			r, out := convertTiny(t, tinyDisk(t, dir, fileSystem(t, dir, kind, files)))
			r.want(t, 0)
			if !changed(r.report.Fixes, "linux/fstab") {
				t.Errorf("fstab is not repaired: %+v", r.report.Fixes)
			}
			secondRunChangesNothing(t, out)
		})
	}
}

// fileSystem makes a file system of the kind that holds the tree.
func fileSystem(t *testing.T, dir, kind string, files tree) part {
	t.Helper()
	const size = 400 * mib
	img, top := filepath.Join(dir, "fs."+kind), files.write(t, filepath.Join(dir, "files"))
	script := `set -e
truncate -s "$2" "$1"
PATH=$PATH:/sbin:/usr/sbin
mkfs."$3" -q "$1"
mkdir "$1.mnt"
mount -o loop "$1" "$1.mnt"
trap 'umount "$1.mnt"' EXIT
cp -a "$4/." "$1.mnt/"`
	if out, err := exec.Command("bash", "-c", script, "bash", img, fmt.Sprint(int64(size)), kind, top).CombinedOutput(); err != nil {
		t.Fatalf("make %s: %v\n%s", kind, err, out)
	}
	return part{img, size}
}

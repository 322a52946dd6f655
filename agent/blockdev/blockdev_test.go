package blockdev_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hyper2kvm/agent/blockdev"
	"hyper2kvm/fixes/guest"
)

func TestPartitionNode(t *testing.T) {
	for disk, want := range map[string]string{"/dev/sda": "/dev/sda3", "/dev/nvme0n1": "/dev/nvme0n1p3", "/dev/loop7": "/dev/loop7p3"} {
		if got := blockdev.PartitionNode(disk, 3); got != want {
			t.Errorf("partition 3 of %s is %s, want %s", disk, got, want)
		}
	}
}

// disk makes a disk with partitions by sfdisk and fills them with mkfs.
func disk(t *testing.T, size int64, script string, fill func(name string)) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	if script != "" {
		run(t, script, "sfdisk", "--quiet", name)
	}
	if fill != nil {
		fill(name)
	}
	return name
}

func run(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("%s is not installed", args[0])
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestScan(t *testing.T) {
	const uuid = "11111111-2222-3333-4444-555555555555"
	first := disk(t, 64<<20, "label: gpt\nstart=1MiB,size=16MiB,type=U\nsize=16MiB\n", func(name string) {
		run(t, "", "mke2fs", "-q", "-t", "ext4", "-U", uuid, "-L", "root", "-E", "offset=17825792", name, "16M")
	})
	second := disk(t, 8<<20, "", func(name string) { run(t, "", "mkswap", "-q", "-U", uuid, name) })
	d, err := blockdev.Scan(t.Context(), []string{first, second}, blockdev.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(t.Context())
	if d.Disks[0].Table != "gpt" || len(d.Disks[0].Partitions) != 2 || d.Disks[1].Table != "none" {
		t.Errorf("disks %+v", d.Disks)
	}
	want := []guest.Filesystem{
		{Disk: 0, Partition: 2, Device: first + "2", Type: "ext4", UUID: uuid, Label: "root", Size: 16 << 20},
		{Disk: 1, Device: second, Type: "swap", UUID: uuid, Size: 8 << 20},
	}
	want[0].PartUUID = d.Disks[0].Partitions[1].UUID
	if diff := cmp.Diff(want, d.Filesystems, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// TestLVMConfig asks the real lvm whether it understands every setting that is
// given to it.
func TestLVMConfig(t *testing.T) {
	config := blockdev.LVMConfig([]string{"/dev/sda1", "/dev/mapper/a-b"})
	out := run(t, "", "lvm", "lvmconfig", "--type", "current", "--config", config, "devices/filter", "activation/udev_sync")
	if !strings.Contains(out, `"a|^/dev/sda1$|"`) || !strings.Contains(out, "udev_sync=0") {
		t.Errorf("lvm takes the configuration as:\n%s", out)
	}
	if valid := run(t, "", "lvm", "lvmconfig", "--validate", "--config", config); !strings.Contains(valid, "valid") || strings.Contains(valid, "unknown") {
		t.Errorf("lvm says of the configuration: %s", valid)
	}
}

package chain

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A disk whose partition table counts in sectors of 4096 bytes is found out,
// whatever format it lies in.
func TestSectorSize(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		offset int64
		want   int64
	}{{512, 512}, {4096, 4096}, {0, 512}} {
		raw := filepath.Join(dir, "disk.raw")
		data := make([]byte, 1<<20)
		if c.offset > 0 {
			copy(data[c.offset:], "EFI PART")
		}
		if err := os.WriteFile(raw, data, 0o600); err != nil {
			t.Fatal(err)
		}
		qcow2 := filepath.Join(dir, "disk.qcow2")
		if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img: %v\n%s", err, out)
		}
		for _, path := range []string{raw, qcow2} {
			d, err := Open(path, Policy{})
			if err != nil {
				t.Fatal(err)
			}
			if got := d.SectorSize(); got != c.want {
				t.Errorf("%s with a table at %d: sectors of %d bytes, want %d", filepath.Base(path), c.offset, got, c.want)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What the device says counts where the disk itself does not say.
func TestSectorSizeOfDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a loop device takes root")
	}
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(raw, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", "4096", raw).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v\n%s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
	d, err := Open(device, Policy{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := d.SectorSize(); got != 4096 {
		t.Errorf("sectors of %d bytes, want 4096", got)
	}
}

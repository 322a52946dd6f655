package chain

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
)

// snapshotVDI makes a base and, in the folder child, a snapshot over it as
// VirtualBox does: the snapshot knows its parent by two ids, and no name. It
// returns the snapshot and what it must read as.
func snapshotVDI(t *testing.T, dir, child string) (path string, want []byte) {
	t.Helper()
	want = bytes.Repeat([]byte("base"), 1<<20)
	write(t, filepath.Join(dir, "base.raw"), string(want))
	run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vdi", "base.raw", "web01.vdi")
	if err := os.MkdirAll(filepath.Join(dir, child), 0o755); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, child, "{5f2f}.vdi")
	run(t, dir, "qemu-img", "create", "-q", "-f", "vdi", path, "4M")
	run(t, dir, "qemu-io", "-f", "vdi", "-c", "write -q -P 7 2M 1M", path)
	copy(want[2<<20:3<<20], bytes.Repeat([]byte{7}, 1<<20))
	base, err := os.ReadFile(filepath.Join(dir, "web01.vdi"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[76] = 4 // differencing
	// uuidLinkage and uuidParentModify are the parent's uuidCreate and uuidModify.
	copy(b[424:456], base[392:424])
	write(t, path, string(b))
	return path, want
}

func TestParentByItsID(t *testing.T) {
	dir := t.TempDir()
	top, want := snapshotVDI(t, dir, ".")
	// Others in the folder, one of them the same disk at another time.
	run(t, dir, "qemu-img", "create", "-q", "-f", "vdi", "another.vdi", "4M")
	write(t, filepath.Join(dir, "notes.vdi"), "not an image")
	older, err := os.ReadFile(filepath.Join(dir, "web01.vdi"))
	if err != nil {
		t.Fatal(err)
	}
	older[408]++
	write(t, filepath.Join(dir, "0-older.vdi"), string(older))

	c := mustOpen(t, top, Policy{})
	formatstest.Disk(t, c, bytes.NewReader(want))
	if list := c.Images(); len(list) != 2 || filepath.Base(list[1].Path) != "web01.vdi" {
		t.Errorf("images %+v", list)
	}

	// With only the one at another time there, it is named as what it is.
	if err := os.Remove(filepath.Join(dir, "web01.vdi")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(top, Policy{}); !errors.Is(err, ErrWrongParent) {
		t.Errorf("over another content: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "0-older.vdi")); err != nil {
		t.Fatal(err)
	}
	_, err = Open(top, Policy{})
	var broken *BrokenError
	if !errors.As(err, &broken) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(broken.Tree(), "MISSING") {
		t.Errorf("without it: %v", err)
	}
}

// VirtualBox keeps snapshots in a folder below the machine's: that is another
// folder, which the user allows.
func TestParentInTheMachinesFolder(t *testing.T) {
	top, want := snapshotVDI(t, t.TempDir(), "Snapshots")
	if _, err := Open(top, Policy{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not allowed: %v", err)
	}
	formatstest.Disk(t, mustOpen(t, top, Policy{Outside: true}), bytes.NewReader(want))
}

func TestParentByItsIDIsNotItself(t *testing.T) {
	dir := t.TempDir()
	top, _ := snapshotVDI(t, dir, ".")
	b, err := os.ReadFile(top)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[392:424], b[424:456]) // it has the ids of its parent
	write(t, top, string(b))
	write(t, filepath.Join(dir, "web01.vdi"), string(b)) // and so has this one, which is a snapshot, too
	if _, err := Open(top, Policy{}); !errors.Is(err, ErrLoop) && !errors.Is(err, ErrDepth) {
		t.Errorf("got %v", err)
	}
}

// A VHD over another one, as Windows makes them: QEMU ignores the parent.
func TestVHDFromWindows(t *testing.T) {
	dir := t.TempDir()
	parent := formatstest.SampleIn(t, dir, "disks/ntfs-parent.vhd.zst")
	top := formatstest.SampleIn(t, dir, "disks/ntfs-differential.vhd.zst")
	c, base := mustOpen(t, top, Policy{}), mustOpen(t, parent, Policy{})
	formatstest.Disk(t, c, nil)
	if len(c.Images()) != 2 {
		t.Fatalf("images %+v", c.Images())
	}
	fromParent := 0
	for off := int64(0); off < c.Size(); {
		e, layer, err := c.Layer(off, c.Size()-off)
		if err != nil {
			t.Fatal(err)
		}
		got, want := make([]byte, e.Length), make([]byte, e.Length)
		if _, err := c.ReadAt(got, off); err != nil {
			t.Fatal(err)
		}
		if _, err := base.ReadAt(want, off); err != nil {
			t.Fatal(err)
		}
		if layer == 1 && e.Kind == formats.Data {
			fromParent += int(e.Length / 512)
			if !bytes.Equal(got, want) {
				t.Errorf("at %d: not what the parent has", off)
			}
		}
		off += e.Length
	}
	if fromParent == 0 {
		t.Error("nothing comes from the parent")
	}
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(top, Policy{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the parent: %v", err)
	}
}

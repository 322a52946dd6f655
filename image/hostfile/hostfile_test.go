package hostfile_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/image/hostfile"
)

func TestHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 64<<10), 1<<20); err != nil {
		t.Fatal(err)
	}
	h, err := hostfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	data, hole, err := h.NextData(0)
	if err != nil {
		t.Fatal(err)
	}
	if data == 0 && hole == 4<<20 {
		t.Skip("the file system of the temporary folder has no holes")
	}
	if data != 1<<20 || hole != 1<<20+64<<10 {
		t.Errorf("NextData(0) = %d, %d", data, hole)
	}
	for _, off := range []int64{2 << 20, 4 << 20, 5 << 20} {
		if data, hole, err := h.NextData(off); err != nil || data != 4<<20 || hole != 4<<20 {
			t.Errorf("NextData(%d) = %d, %d, %v", off, data, hole, err)
		}
	}
}

func TestNotAFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := hostfile.Open(dir); !errors.Is(err, hostfile.ErrDirectory) {
		t.Errorf("folder: %v", err)
	}
	if _, err := hostfile.Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := hostfile.Open("/dev/null"); !errors.Is(err, hostfile.ErrNotFile) {
		t.Errorf("device: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := hostfile.Open(fifo)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, hostfile.ErrNotFile) {
			t.Errorf("pipe: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("opening a pipe blocks")
	}
}

func TestBlockDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", img).Output()
	if err != nil {
		t.Skipf("losetup: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "-d", dev).Run(); err != nil {
			t.Errorf("losetup -d %s: %v", dev, err)
		}
	})
	h, err := hostfile.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h.Size() != 1<<20 {
		t.Errorf("size %d", h.Size())
	}
	if data, hole, err := h.NextData(512); err != nil || data != 512 || hole != 1<<20 {
		t.Errorf("NextData(512) = %d, %d, %v", data, hole, err)
	}
}

package convert

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/raw"
	"hyper2kvm/image/hostfile"
	"hyper2kvm/image/publish"
)

// loop makes a block device over a file of the given size, full of old data.
func loop(t *testing.T, size int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	old := make([]byte, size)
	if _, err := rand.Read(old); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(file, old, 0o600); err != nil {
		t.Fatal(err)
	}
	return attach(t, file)
}

func attach(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Skipf("losetup: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "-d", dev).Run(); err != nil {
			t.Errorf("losetup -d %s: %v", dev, err)
		}
	})
	return dev
}

func TestDeviceOutput(t *testing.T) {
	for name, content := range sources() {
		for _, format := range []string{"raw", "qcow2"} {
			t.Run(name+" as "+format, func(t *testing.T) {
				dev := loop(t, 12<<20)
				opt := Options{Format: format, Verify: true, Workers: 2}
				if _, err := Run(t.Context(), memory(t, content), dev, opt); !errors.Is(err, publish.ErrExists) {
					t.Errorf("onto a device with data: %v", err)
				}
				opt.Force = true
				if _, err := Run(t.Context(), memory(t, content), dev, opt); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(dev)
				if err != nil {
					t.Fatal(err)
				}
				if format == "raw" && !bytes.Equal(got[:len(content)], content) {
					t.Error("the device differs from the source")
				}
				if len(bytes.Trim(got[11<<20:], "\x00")) > 0 {
					t.Error("the end of the device still has what was there")
				}
				if format == "qcow2" {
					formatstest.QemuImg(t, "check", "-q", "-f", "qcow2", dev)
				}
			})
		}
	}
}

// A device that was not finished shows nothing that could be taken for a disk,
// and a resumed run ends with the same bytes.
func TestDeviceResumed(t *testing.T) {
	disk := long(t)
	dev := loop(t, 32<<20)
	opt := Options{Format: "raw", Force: true, Checkpoint: filepath.Join(t.TempDir(), "checkpoint"), Workers: 2}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := Run(ctx, &ends{Disk: disk, after: 6 << 20, end: cancel}, dev, opt); err == nil {
		t.Fatal("not interrupted")
	}
	head := make([]byte, headBytes)
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil || !isZero(head) {
		t.Errorf("head of an unfinished device: %v", err)
	}
	opt.Verify, opt.Force = true, false
	res, err := Run(t.Context(), disk, dev, opt)
	if err != nil || res.Resumed == 0 {
		t.Fatalf("%+v, %v", res, err)
	}
}

func TestDeviceRefused(t *testing.T) {
	disk := memory(t, sources()["full"])
	dev := loop(t, 2<<20)
	if _, err := Run(t.Context(), disk, dev, Options{Format: "raw", Force: true}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("too small: %v", err)
	}
	if _, err := Run(t.Context(), disk, dev, Options{Format: "qcow2", Force: true}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("too small for qcow2: %v", err)
	}
	if _, err := Run(t.Context(), disk, dev, Options{Format: "vmdk", Force: true}); !errors.Is(err, ErrOptions) {
		t.Errorf("vmdk: %v", err)
	}
	// The file behind a device is the same bytes under another name.
	file := filepath.Join(t.TempDir(), "src")
	src := rawFile(t, file, sources()["full"])
	over := attach(t, file)
	for _, out := range []string{over} {
		if _, err := Run(t.Context(), src, out, Options{Format: "raw", Force: true, Sources: []string{file}}); !errors.Is(err, publish.ErrIsSource) {
			t.Errorf("onto the device over the source: %v", err)
		}
	}
	if _, err := Run(t.Context(), src, dev, Options{Format: "raw", Force: true, Sources: []string{dev}}); !errors.Is(err, publish.ErrIsSource) {
		t.Errorf("onto itself: %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || !bytes.Equal(data, sources()["full"]) {
		t.Errorf("the source has changed, %v", err)
	}
}

func TestMountedDeviceIsRefused(t *testing.T) {
	dir := mountXFS(t)
	out, err := exec.Command("findmnt", "-n", "-o", "SOURCE", dir).Output()
	if err != nil {
		t.Skipf("findmnt: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	if _, err := Run(t.Context(), memory(t, sources()["full"]), dev, Options{Format: "raw", Force: true}); !errors.Is(err, publish.ErrBusy) {
		t.Errorf("got %v", err)
	}
}

// A device as source reads like the file behind it.
func TestDeviceSource(t *testing.T) {
	content := sources()["sparse"]
	file := filepath.Join(t.TempDir(), "src")
	rawFile(t, file, content)
	h, err := hostfile.Open(attach(t, file))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var disk formats.Disk = raw.New(h.Format())
	out := filepath.Join(t.TempDir(), "out")
	if _, err := Run(t.Context(), disk, out, Options{Verify: true}); err != nil {
		t.Fatal(err)
	}
	formatstest.QemuImg(t, "compare", "-q", "-f", "raw", "-F", "qcow2", file, out)
}

// cached is how many pages of a device are in the page cache.
func cached(t *testing.T, dev string) int {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	}()
	in := make([]byte, (len(m)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatal(errno)
	}
	n := 0
	for _, b := range in {
		n += int(b & 1)
	}
	return n
}

// What goes from one device to another does not go through the page cache, but
// for its begin and what has no whole pages.
func TestDevicesAreNotCached(t *testing.T) {
	for _, format := range []string{"raw", "qcow2"} {
		from, to := loop(t, 16<<20), loop(t, 20<<20)
		// The last who closes a device empties its cache.
		held, err := os.Open(to)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		h, err := hostfile.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		drop(t, from)
		drop(t, to)
		if _, err := Run(t.Context(), raw.New(h.Format()), to, Options{Format: format, Force: true, Workers: 4}); err != nil {
			t.Fatal(err)
		}
		for _, dev := range []string{from, to} {
			// Less than one window: who looks at a new device may have read some, too.
			if n := cached(t, dev); n > 200 {
				t.Errorf("%s: %d pages of %s are in the page cache", format, n, dev)
			}
		}
		got, err := reopen(held, format, 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Compare(t.Context(), raw.New(h.Format()), got, nil); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// drop empties the page cache of a device.
func drop(t *testing.T, dev string) {
	t.Helper()
	if out, err := exec.Command("blockdev", "--flushbufs", dev).CombinedOutput(); err != nil {
		t.Skipf("blockdev: %v\n%s", err, out)
	}
}

// Buffers of any alignment, and any offset, give the same bytes.
func TestDirectIsChosenWhereItCan(t *testing.T) {
	b := alignedBuffer(64 << 10)
	for _, c := range []struct {
		p    []byte
		off  int64
		want int
	}{
		{b, 0, 64 << 10}, {b[:5000], 8192, 4096}, {b[:4095], 0, 0}, {b[512:], 512, 0}, {b[512:], 4096, 0}, {b[4096:], 4096, 60 << 10}, {b, 512, 0},
	} {
		if got := directPart(c.p, c.off); got != c.want {
			t.Errorf("%d bytes at %d: %d, want %d", len(c.p), c.off, got, c.want)
		}
	}
	if len(b) != 64<<10 || cap(b) != 64<<10 {
		t.Errorf("a buffer of %d, capacity %d", len(b), cap(b))
	}
}

package chain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/image/hostfile"
)

func need(t testing.TB, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is needed (package %s)", name, pkg)
		}
		t.Skipf("%s is not installed (package %s)", name, pkg)
	}
}

// run runs a tool in dir.
func run(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	need(t, name, "qemu-utils")
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// flatten has qemu-img read the chain, as the oracle.
func flatten(t testing.TB, dir, format, name string) []byte {
	t.Helper()
	run(t, dir, "qemu-img", "convert", "-f", format, "-O", "raw", name, "oracle.raw")
	b, err := os.ReadFile(filepath.Join(dir, "oracle.raw"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustOpen(t testing.TB, path string, pol Policy) *Chain {
	t.Helper()
	c, err := Open(path, pol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestQcow2ChainAgainstQemu(t *testing.T) {
	dir := t.TempDir()
	// The parents are smaller than the child, at each level.
	run(t, dir, "qemu-img", "create", "-q", "-f", "raw", "base.raw", "3M")
	run(t, dir, "qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "write -P 2 2M 1M", "base.raw")
	run(t, dir, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "mid.qcow2", "5M")
	run(t, dir, "qemu-io", "-c", "write -P 3 512k 64k", "-c", "write -P 4 4M 64k", "-c", "write -z 2M 128k", "mid.qcow2")
	run(t, dir, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "-o", "cluster_size=4k", "top.qcow2", "8M")
	run(t, dir, "qemu-io", "-c", "write -P 5 516k 4k", "-c", "write -P 6 7M 512", "-c", "discard 4M 4k", "top.qcow2")
	want := flatten(t, dir, "qcow2", "top.qcow2")
	c := mustOpen(t, filepath.Join(dir, "top.qcow2"), Policy{})
	formatstest.Disk(t, c, bytes.NewReader(want))

	var names []string
	for _, i := range c.Images() {
		names = append(names, filepath.Base(i.Path)+":"+i.Info.Format)
	}
	if got := strings.Join(names, " "); got != "top.qcow2:qcow2 mid.qcow2:qcow2 base.raw:raw" {
		t.Errorf("images %s", got)
	}
	plain := 0
	for off := int64(0); off < c.Size(); {
		e, err := c.Extent(off, c.Size()-off)
		if err != nil || e.Kind == formats.Absent {
			t.Fatalf("Extent(%d) = %+v, %v", off, e, err)
		}
		if e.Plain != nil {
			plain++
		}
		off += e.Length
	}
	if plain == 0 {
		t.Error("no extent can be copied by the kernel")
	}
}

func TestSplitVMDKAgainstQemu(t *testing.T) {
	dir := t.TempDir()
	b := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{})
	r.Read(b[1<<20 : 2<<20])
	write(t, filepath.Join(dir, "in.raw"), string(b))
	for _, kind := range []string{"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"} {
		run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+kind, "in.raw", kind+".vmdk")
		c := mustOpen(t, filepath.Join(dir, kind+".vmdk"), Policy{})
		formatstest.Disk(t, c, bytes.NewReader(b))
		files := len(c.Files())
		if want := map[bool]int{true: 1, false: 2}[kind == "monolithicSparse"]; files != want {
			t.Errorf("%s: %d files, want %d: %v", kind, files, want, c.Files())
		}
	}
}

func TestVMDKSnapshotAgainstQemu(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, "qemu-img", "create", "-q", "-f", "vmdk", "base.vmdk", "4M")
	run(t, dir, "qemu-io", "-c", "write -P 1 0 2M", "base.vmdk")
	run(t, dir, "qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "snap.vmdk")
	run(t, dir, "qemu-io", "-c", "write -P 2 1M 64k", "snap.vmdk")
	want := flatten(t, dir, "vmdk", "snap.vmdk")
	c, err := Open(filepath.Join(dir, "snap.vmdk"), Policy{})
	if err != nil {
		t.Fatal(err)
	}
	formatstest.Disk(t, c, bytes.NewReader(want))
	c.Close()

	// A parent that was written to after the snapshot gets another CID: the
	// snapshot does not fit any more, which qemu-img convert lets pass.
	run(t, dir, "qemu-io", "-c", "write -P 9 0 64k", "base.vmdk")
	_, err = Open(filepath.Join(dir, "snap.vmdk"), Policy{})
	broken, ok := errors.AsType[*BrokenError](err)
	if !ok || !errors.Is(err, ErrWrongParent) {
		t.Fatalf("a parent that changed: %v", err)
	}
	if tree := broken.Tree(); !strings.Contains(tree, "snap.vmdk  vmdk monolithicSparse, id") ||
		!strings.Contains(tree, "\n└─ base.vmdk  vmdk monolithicSparse, id") || !strings.HasSuffix(tree, "WRONG PARENT") {
		t.Errorf("tree:\n%s", tree)
	}
}

// child makes a qcow2 that names parent, without looking whether it is there.
func child(t testing.TB, dir, name, parent, format string) string {
	t.Helper()
	run(t, dir, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", parent, "-F", format, name, "1M")
	return filepath.Join(dir, name)
}

func TestPolicy(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "images")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(top, "secret.raw")
	disk := strings.Repeat("secret! ", 1<<17)
	write(t, secret, disk)
	write(t, filepath.Join(dir, "sub", "in-sub.raw"), disk)
	write(t, filepath.Join(dir, "good.raw"), disk)
	for link, target := range map[string]string{
		"out.raw": "../secret.raw", "abs.raw": secret, "device.raw": "/dev/zero", "inside.raw": "good.raw", "dangling.raw": "nothing",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo.raw"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name            string
		strict, outside error // nil: opens
	}{
		{"good.raw", nil, nil},
		{"inside.raw", nil, nil},
		{secret, formats.ErrRefused, nil},
		{"../secret.raw", formats.ErrRefused, nil},
		{"../images/good.raw", formats.ErrRefused, nil},
		{"sub/in-sub.raw", formats.ErrRefused, nil},
		{"out.raw", formats.ErrRefused, nil},
		{"abs.raw", formats.ErrRefused, nil},
		{"device.raw", formats.ErrRefused, formats.ErrRefused},
		{"fifo.raw", formats.ErrRefused, formats.ErrRefused},
		{filepath.Join(dir, "good.raw"), nil, nil}, // libvirt writes absolute names
		{dir + "//./good.raw", nil, nil},
		{filepath.Join(dir, "out.raw"), formats.ErrRefused, nil},
		{filepath.Join(dir, "sub", "in-sub.raw"), formats.ErrRefused, nil},
		{dir + "/../secret.raw", formats.ErrRefused, nil},
		{"/dev/zero", formats.ErrRefused, formats.ErrRefused},
		{"/etc/passwd", formats.ErrRefused, nil},
		{"nbd:localhost:10809", formats.ErrRefused, formats.ErrRefused},
		{"https://example.com/disk.raw", formats.ErrRefused, formats.ErrRefused},
		{`json:{"driver":"file","filename":"/etc/passwd"}`, formats.ErrRefused, formats.ErrRefused},
		{`C:\VMs\base.vmdk`, formats.ErrRefused, formats.ErrRefused},
		{"..", formats.ErrRefused, hostfile.ErrDirectory},
		{"sub", hostfile.ErrDirectory, hostfile.ErrDirectory},
		{"missing.raw", fs.ErrNotExist, fs.ErrNotExist},
		{"dangling.raw", fs.ErrNotExist, fs.ErrNotExist},
	} {
		path := child(t, dir, "child.qcow2", x.name, "raw")
		for _, pol := range []Policy{{}, {Outside: true}} {
			want := map[bool]error{false: x.strict, true: x.outside}[pol.Outside]
			c, err := Open(path, pol)
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, want) {
				t.Errorf("parent %q, outside %v: %v, want %v", x.name, pol.Outside, err, want)
			}
			if _, ok := errors.AsType[*BrokenError](err); err != nil && !ok {
				t.Errorf("parent %q: the error is no BrokenError: %v", x.name, err)
			}
		}
	}
}

// TestExtentPolicy: a descriptor is as little to be believed as a parent's name.
func TestExtentPolicy(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"/etc/hostname", "../x", "/dev/sda"} {
		path := filepath.Join(dir, "d.vmdk")
		write(t, path, fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1 FLAT %q 0\n", name))
		_, err := Open(path, Policy{})
		broken, ok := errors.AsType[*BrokenError](err)
		if !ok || !errors.Is(err, formats.ErrRefused) {
			t.Errorf("extent %q: %v", name, err)
			continue
		}
		if tree := broken.Tree(); !strings.Contains(tree, "└─ "+name+"  REFUSED") {
			t.Errorf("tree:\n%s", tree)
		}
	}
}

func TestNamedFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "empty.vmdk"), "")
	write(t, filepath.Join(dir, "text.vmdk"), strings.Repeat("just some text\n", 100))
	write(t, filepath.Join(dir, "secret.raw"), strings.Repeat("x", 4096))
	if err := os.Chmod(filepath.Join(dir, "secret.raw"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"": hostfile.ErrDirectory, "missing.vmdk": fs.ErrNotExist, "empty.vmdk": detect.ErrEmpty,
		"text.vmdk": formats.ErrFormat, "fifo": hostfile.ErrNotFile, "secret.raw": fs.ErrPermission,
	} {
		if name == "secret.raw" && os.Geteuid() == 0 {
			continue // root reads everything
		}
		_, err := Open(filepath.Join(dir, name), Policy{})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
		if _, ok := errors.AsType[*BrokenError](err); ok {
			t.Errorf("%q: a chain is blamed: %v", name, err)
		}
	}
	write(t, filepath.Join(dir, "text"), strings.Repeat("just some text\n", 100))
	c := mustOpen(t, filepath.Join(dir, "text"), Policy{Format: "raw"})
	if c.Size() != 1500 {
		t.Errorf("forced to raw: %d bytes", c.Size())
	}
}

func TestLoopAndDepth(t *testing.T) {
	dir := t.TempDir()
	child(t, dir, "a.qcow2", "b.qcow2", "qcow2")
	child(t, dir, "b.qcow2", "link.qcow2", "qcow2")
	if err := os.Symlink("a.qcow2", filepath.Join(dir, "link.qcow2")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "a.qcow2"), Policy{}); !errors.Is(err, ErrLoop) {
		t.Errorf("loop: %v", err)
	}
	for i := range MaxDepth + 1 {
		name := fmt.Sprintf("n%d.qcow2", i)
		if i == 0 {
			run(t, dir, "qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
		} else {
			child(t, dir, name, fmt.Sprintf("n%d.qcow2", i-1), "qcow2")
		}
	}
	c := mustOpen(t, filepath.Join(dir, fmt.Sprintf("n%d.qcow2", MaxDepth-1)), Policy{})
	if n := len(c.Images()); n != MaxDepth {
		t.Errorf("%d images, want %d", n, MaxDepth)
	}
	_, err := Open(filepath.Join(dir, fmt.Sprintf("n%d.qcow2", MaxDepth)), Policy{})
	if !errors.Is(err, ErrDepth) {
		t.Errorf("depth: %v", err)
	}
	if broken, ok := errors.AsType[*BrokenError](err); !ok || strings.Count(broken.Tree(), "\n") != MaxDepth {
		t.Error("the tree does not show the whole chain")
	}
}

func TestMissingParentTree(t *testing.T) {
	dir := t.TempDir()
	child(t, dir, "mid.qcow2", "ba\x1b[31mse.raw", "raw")
	child(t, dir, "top.qcow2", "mid.qcow2", "qcow2")
	_, err := Open(filepath.Join(dir, "top.qcow2"), Policy{})
	broken, ok := errors.AsType[*BrokenError](err)
	if !ok {
		t.Fatalf("%v", err)
	}
	want := "top.qcow2  qcow2 v3\n└─ mid.qcow2  qcow2 v3\n   └─ \"ba\\x1b[31mse.raw\"  MISSING"
	if got := broken.Tree(); got != want {
		t.Errorf("tree:\n%s\nwant:\n%s", got, want)
	}
}

func TestFilesAreOnlyRead(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "base.raw"), strings.Repeat("x", 1<<20))
	c := mustOpen(t, child(t, dir, "top.qcow2", "base.raw", "raw"), Policy{})
	for _, f := range c.files {
		flags, err := unix.FcntlInt(f.OSFile().Fd(), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY {
			t.Errorf("%s is open with flags %#x, %v", f.Name(), flags, err)
		}
	}
	if _, err := io.ReadFull(io.NewSectionReader(c, 0, 10), make([]byte, 10)); err != nil {
		t.Error(err)
	}
}

// TestBlockDevice opens a loop device as a raw source, whatever its first
// bytes look like.
func TestBlockDevice(t *testing.T) {
	need(t, "losetup", "mount")
	dir := t.TempDir()
	path := child(t, dir, "trap.qcow2", "/etc/passwd", "raw")
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", "--read-only", path).Output()
	if err != nil {
		t.Skipf("no loop device to be had: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", dev).Run() })
	c := mustOpen(t, dev, Policy{})
	if i := c.Images()[0]; i.Info.Format != "raw" || c.Size() != 1<<20 {
		t.Errorf("%s: %s of %d bytes", dev, i.Info.Format, c.Size())
	}
}

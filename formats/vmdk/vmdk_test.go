package vmdk_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vmdk"
)

// folder opens what an image names in one folder.
func folder(dir string) formats.Opener {
	return func(name string) (formats.File, error) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return formats.File{}, err
		}
		return formatstest.File(name, b), nil
	}
}

// pattern is size bytes with holes, zeroes and noise.
func pattern(size int) []byte {
	r := rand.New(rand.NewPCG(uint64(size), 7))
	b := make([]byte, size)
	for off := 0; off < size; {
		n := min(1+r.IntN(300<<10), size-off)
		if r.IntN(3) > 0 {
			for i := range b[off : off+n] {
				b[off+i] = byte(r.Uint32() >> 28) // compresses by half
			}
		}
		off += n
	}
	return b
}

func needQemuImg(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img (package qemu-utils)")
	}
}

func mustOpen(t *testing.T, path string) *vmdk.Image {
	t.Helper()
	dir, name := filepath.Split(path)
	f, err := folder(dir)(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := vmdk.Open(f, folder(dir))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Every variant that QEMU writes reads as the raw disk it was made of.
func TestReadQemu(t *testing.T) {
	needQemuImg(t)
	dir := t.TempDir()
	for _, variant := range []string{"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"} {
		for _, size := range []int{512, 64 << 10, 1<<20 + 512, 34 << 20} {
			t.Run(fmt.Sprint(variant, " ", size), func(t *testing.T) {
				want := pattern(size)
				raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "out.vmdk")
				if err := os.WriteFile(raw, want, 0o600); err != nil {
					t.Fatal(err)
				}
				formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+variant, raw, out)
				img := mustOpen(t, out)
				if in := img.Info(); in.Variant != variant || in.Size != int64(size) || in.Parent != nil || len(in.Warnings) > 0 {
					t.Errorf("Info = %+v", in)
				}
				formatstest.Disk(t, img, bytes.NewReader(want))
			})
		}
	}
}

// A delta is Absent where it holds nothing, and says whose child it is.
func TestReadDelta(t *testing.T) {
	needQemuImg(t)
	dir := t.TempDir()
	base, delta := filepath.Join(dir, "base.vmdk"), filepath.Join(dir, "delta.vmdk")
	formatstest.QemuImg(t, "create", "-q", "-f", "vmdk", base, "8M")
	formatstest.QemuImg(t, "create", "-q", "-f", "vmdk", "-b", base, "-F", "vmdk", delta)
	if out, err := exec.Command("qemu-io", "-c", "write -P 0x5a 1M 64k", delta).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	parent, child := mustOpen(t, base), mustOpen(t, delta)
	claim := child.Info().Parent
	if claim == nil || claim.Name != base || claim.ID != parent.Info().ID || claim.ID == "" {
		t.Fatalf("claim %+v, parent %+v", claim, parent.Info())
	}
	formatstest.Disk(t, child, nil)
	for _, c := range []struct {
		off  int64
		want formats.Kind
	}{{0, formats.Absent}, {1 << 20, formats.Data}, {2 << 20, formats.Absent}} {
		if e, err := child.Extent(c.off, 1); err != nil || e.Kind != c.want {
			t.Errorf("Extent(%d) = %v, %v; want %v", c.off, e.Kind, err, c.want)
		}
	}
}

// Grain table entry 1 is a zeroed grain: zero even over a parent.
func TestZeroGrain(t *testing.T) {
	needQemuImg(t)
	dir := t.TempDir()
	base, delta := filepath.Join(dir, "base.vmdk"), filepath.Join(dir, "delta.vmdk")
	formatstest.QemuImg(t, "create", "-q", "-f", "vmdk", base, "8M")
	formatstest.QemuImg(t, "create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", "-b", base, "-F", "vmdk", delta)
	if out, err := exec.Command("qemu-io", "-c", "write -z 1M 64k", delta).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	child := mustOpen(t, delta)
	if e, err := child.Extent(1<<20, 1<<20); err != nil || e.Kind != formats.Zero || e.Length != 64<<10 {
		t.Errorf("zeroed grain = %+v, %v", e, err)
	}
}

// A descriptor may put a disk together from parts of files and from nothing.
func TestDescriptorOfManyExtents(t *testing.T) {
	dir := t.TempDir()
	flat := pattern(64 << 10)
	if err := os.WriteFile(filepath.Join(dir, "a b-flat.vmdk"), flat, 0o600); err != nil {
		t.Fatal(err)
	}
	text := "# Disk DescriptorFile\r\nversion=1\r\nCID=ABC\r\nparentCID=FFFFFFFF\r\ncreateType=\"custom\"\r\n" +
		"RW 16 FLAT \"a b-flat.vmdk\" 8\r\nRW 4 ZERO\r\nRDONLY 8 FLAT \"a b-flat.vmdk\" 100\r\nddb.adapterType = \"ide\"\r\n"
	img, err := vmdk.Open(formatstest.File("d.vmdk", []byte(text)), folder(dir))
	if err != nil {
		t.Fatal(err)
	}
	want := append(append(bytes.Clone(flat[8*512:24*512]), make([]byte, 4*512)...), flat[100*512:108*512]...)
	formatstest.Disk(t, img, bytes.NewReader(want))
	if in := img.Info(); in.ID != "00000abc" || in.Variant != "custom" || in.Fields[0].Value != "ide" {
		t.Errorf("Info = %+v", in)
	}
}

func TestDescriptorErrors(t *testing.T) {
	head := "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
	refuse := func(string) (formats.File, error) { return formats.File{}, formats.ErrRefused }
	short := func(string) (formats.File, error) { return formatstest.File("short", make([]byte, 100)), nil }
	for _, c := range []struct {
		name, text string
		open       formats.Opener
		want       error
	}{
		{"no extents", head, nil, formats.ErrCorrupt},
		{"not allowed", head + "RW 8 FLAT \"/etc/passwd\" 0\n", refuse, formats.ErrRefused},
		{"no opener", head + "RW 8 FLAT \"x\" 0\n", nil, formats.ErrRefused},
		{"extent file too short", head + "RW 8 FLAT \"x\" 0\n", short, formats.ErrTruncated},
		{"offset past the end", head + "RW 0 FLAT \"x\" 5\n", short, formats.ErrTruncated},
		{"raw device mapping", head + "RW 8 VMFSRDM \"x\"\n", short, formats.ErrUnsupported},
		{"encrypted, by its keys", head + "encryptionKeys=\"vmware:key/list/(pair/(…))\"\nRW 8 ZERO\n", nil, formats.ErrUnsupported},
		{"encrypted, by its filter", head + "RW 8 ZERO\nddb.iofilters = \"vmwarevmcrypt\"\n", nil, formats.ErrUnsupported},
		{"no access", head + "NOACCESS 8 FLAT \"x\" 0\n", short, formats.ErrUnsupported},
		{"negative size", head + "RW -8 ZERO\n", nil, formats.ErrCorrupt},
		{"overflow", head + strings.Repeat("RW 9007199254740992 ZERO\n", 3), nil, formats.ErrCorrupt},
		{"noise", head + "blah\n", nil, formats.ErrCorrupt},
		{"text", "hello world\n", nil, formats.ErrFormat},
		{"nothing", "", nil, formats.ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := vmdk.Open(formatstest.File("d.vmdk", []byte(c.text)), c.open); !errors.Is(err, c.want) {
				t.Errorf("got %v; want %v", err, c.want)
			}
		})
	}
}

// A damaged grain directory is made up for by the redundant one, with a word
// to the user; damage to both is an error.
func TestRedundantDirectory(t *testing.T) {
	needQemuImg(t)
	want := pattern(8 << 20)
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "out.vmdk")
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", raw, out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	damage := func(field int) {
		sector := int(b[field]) | int(b[field+1])<<8
		copy(b[sector*512:], "\xff\xff\xff\x7f")
	}
	damage(56) // gdOffset
	img, err := vmdk.Open(formatstest.File("out.vmdk", b), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Info().Warnings) != 1 {
		t.Errorf("warnings %q", img.Info().Warnings)
	}
	formatstest.Disk(t, img, bytes.NewReader(want))
	damage(48) // rgdOffset
	if _, err := vmdk.Open(formatstest.File("out.vmdk", b), nil); !errors.Is(err, formats.ErrTruncated) {
		t.Errorf("both directories damaged: %v", err)
	}
}

// However a file is cut, opening or reading says so.
func TestTruncated(t *testing.T) {
	needQemuImg(t)
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("0123456789abcdef"), 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, variant := range []string{"monolithicSparse", "streamOptimized"} {
		out := filepath.Join(dir, variant)
		formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+variant, raw, out)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, keep := range []int{100, 511, 600, 20 << 10, len(b) / 2} {
			img, err := vmdk.Open(formatstest.File(variant, b[:min(keep, len(b)-1)]), nil)
			if err == nil {
				err = formatstest.Every(img, 64<<20)
			}
			if !errors.Is(err, formats.ErrTruncated) {
				t.Errorf("%s cut to %d of %d bytes: %v", variant, keep, len(b), err)
			}
		}
	}
}

// A grain that decompresses to other bytes than were compressed is not handed on,
// as far as its checksum tells, which is weak: what another reader of zlib
// refuses is refused.
func TestDamagedGrain(t *testing.T) {
	needQemuImg(t)
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "stream.vmdk")
	want := pattern(128 << 10)
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	first := 128*512 + 12 // behind the overhead and the marker
	size := int(binary.LittleEndian.Uint32(b[first-4:]))
	refused := 0
	for at := 0; at < size; at += 37 {
		bad := bytes.Clone(b)
		bad[first+at] ^= 1 << (at % 8)
		img, err := vmdk.Open(formatstest.File("stream", bad), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		_, err = img.ReadAt(got, 0)
		var lib []byte
		z, libErr := zlib.NewReader(bytes.NewReader(bad[first : first+size]))
		if libErr == nil {
			lib, libErr = io.ReadAll(z)
		}
		if libErr != nil || len(lib) != 64<<10 {
			refused++
			if !errors.Is(err, formats.ErrCorrupt) {
				t.Errorf("byte %d of the grain changed: %v, the library says %v", at, err, libErr)
			}
		} else if err != nil {
			t.Errorf("byte %d of the grain changed: %v, the library has no objection", at, err)
		}
	}
	if refused < size/37/2 {
		t.Errorf("only %d changes are found", refused)
	}
}

package vmdk_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vmdk"
	"hyper2kvm/image/chain"
)

// whole reads all of a disk that is small.
func whole(t *testing.T, d formats.Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if n, err := d.ReadAt(b, 0); n < len(b) {
		t.Fatalf("read %d of %d bytes: %v", n, len(b), err)
	}
	return b
}

func mustChain(t *testing.T, path string) *chain.Chain {
	t.Helper()
	c, err := chain.Open(path, chain.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Disks in pieces of 2 GB, with content on both sides of each border.
func TestPiecesOf2GB(t *testing.T) {
	needQemuImg(t)
	for _, variant := range []string{"twoGbMaxExtentSparse", "twoGbMaxExtentFlat"} {
		t.Run(variant, func(t *testing.T) {
			dir := t.TempDir()
			path, raw := filepath.Join(dir, "split.vmdk"), filepath.Join(dir, "raw")
			formatstest.QemuImg(t, "create", "-q", "-f", "vmdk", "-o", "subformat="+variant, path, "5G")
			args := []string{path}
			for i, at := range []string{"0", "2047M", "2048M", "4095M", "4096M", "5119M"} {
				args = append(args, "-c", fmt.Sprintf("write -P %d %s 1M", i+1, at))
			}
			if out, err := exec.Command("qemu-io", args...).CombinedOutput(); err != nil {
				t.Fatalf("qemu-io: %v\n%s", err, out)
			}
			formatstest.QemuImg(t, "convert", "-O", "raw", path, raw)
			want, err := os.Open(raw)
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			c := mustChain(t, path)
			if n := len(c.Files()); n != 4 || c.Size() != 5<<30 {
				t.Errorf("%d files, %d bytes: %v", n, c.Size(), c.Files())
			}
			formatstest.Disk(t, c, want)
			got, exp := make([]byte, 2<<20), make([]byte, 2<<20)
			for _, at := range []int64{2047 << 20, 4095 << 20} {
				if _, err := c.ReadAt(got, at); err != nil {
					t.Fatal(err)
				}
				if _, err := want.ReadAt(exp, at); err != nil || !bytes.Equal(got, exp) || got[0] == 0 || got[len(got)-1] == 0 {
					t.Errorf("across %d: other bytes than QEMU's (%v)", at+1<<20, err)
				}
			}
		})
	}
}

// A snapshot in pieces of 2 GB over a snapshot over its base, as Workstation
// makes them.
func TestSnapshotsInPieces(t *testing.T) {
	needQemuImg(t)
	dir := t.TempDir()
	cmd := exec.Command("sh", "-ec", `
		qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse web.vmdk 3G
		qemu-io -c "write -P 1 0 1M" -c "write -P 2 2047M 2M" web.vmdk
		qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse -b web.vmdk -F vmdk web-000001.vmdk
		qemu-io -c "write -P 3 512k 64k" -c "write -P 4 2048M 64k" web-000001.vmdk
		qemu-img create -q -f vmdk -b web-000001.vmdk -F vmdk web-000002.vmdk
		qemu-io -c "write -P 5 2559M 1M" web-000002.vmdk
		qemu-img convert -O raw web-000002.vmdk raw`)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := os.Open(filepath.Join(dir, "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	c := mustChain(t, filepath.Join(dir, "web-000002.vmdk"))
	if n := len(c.Images()); n != 3 {
		t.Errorf("%d images", n)
	}
	formatstest.Disk(t, c, want)
}

// stream writes a streamOptimized disk, and changes it as older and other
// writers make it: another version, the directory named in the header and no
// footer, grains without markers.
func stream(t *testing.T, version byte, footer, markers bool, data []byte) []byte {
	t.Helper()
	const grain = 64 << 10
	var out writerAt
	w, err := vmdk.NewWriter(&out, int64(len(data)), vmdk.Options{Variant: "streamOptimized"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(data); off += grain {
		part := data[off:min(off+grain, len(data))]
		if len(bytes.Trim(part, "\x00")) == 0 {
			continue
		}
		packed, err := p.Pack(nil, int64(off), append(bytes.Clone(part), make([]byte, grain-len(part))...))
		if err != nil {
			t.Fatal(err)
		}
		at, err := w.PlacePacked(int64(off), len(packed))
		if err != nil {
			t.Fatal(err)
		}
		if !markers {
			packed = append(packed[12:], make([]byte, 12)...)
		}
		if _, err := out.WriteAt(packed, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	foot := out[len(out)-2*512:]
	for _, h := range [][]byte{out, foot} {
		h[4] = version
		if !markers {
			h[10] &^= 2
		}
	}
	if !footer {
		copy(out[56:64], foot[56:64])
		out = out[:len(out)-3*512]
	}
	return out
}

func TestStreams(t *testing.T) {
	needQemuImg(t)
	data := pattern(3<<20 + 512)
	for version := byte(1); version <= 3; version++ {
		for _, footer := range []bool{true, false} {
			for _, markers := range []bool{true, false} {
				t.Run(fmt.Sprintf("version %d, footer %v, markers %v", version, footer, markers), func(t *testing.T) {
					b := stream(t, version, footer, markers, data)
					img, err := vmdk.Open(formatstest.File("s.vmdk", b), nil)
					if err != nil {
						t.Fatal(err)
					}
					if in := img.Info(); in.Variant != "streamOptimized" || len(in.Warnings) > 0 {
						t.Errorf("Info = %+v", in)
					}
					formatstest.Disk(t, img, bytes.NewReader(data))
					if version == 2 && footer {
						return // QEMU knows no such thing
					}
					dir := t.TempDir()
					path, raw := filepath.Join(dir, "s.vmdk"), filepath.Join(dir, "raw")
					if err := errors.Join(os.WriteFile(path, b, 0o600), os.WriteFile(raw, data, 0o600)); err != nil {
						t.Fatal(err)
					}
					formatstest.QemuImg(t, "compare", "-f", "vmdk", "-F", "raw", path, raw)
				})
			}
		}
	}
}

// A stream that breaks off has no footer where one is announced.
func TestStreamCutOff(t *testing.T) {
	b := stream(t, 3, true, true, pattern(1<<20))
	for _, keep := range []int{len(b) - 512, len(b) - 3*512, len(b) / 2} {
		if _, err := vmdk.Open(formatstest.File("s.vmdk", b[:keep]), nil); !errors.Is(err, formats.ErrTruncated) {
			t.Errorf("%d of %d bytes: %v", keep, len(b), err)
		}
	}
}

// A descriptor of somebody's own, with sparse and flat extents, and a flat one
// that begins within its file.
func TestCustomAgainstQemu(t *testing.T) {
	needQemuImg(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte) {
		if err := os.WriteFile(at(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("raw", pattern(3<<20))
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", at("raw"), at("one.vmdk"))
	write("raw", pattern(64<<10))
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", at("raw"), at("two.vmdk"))
	write("flat", pattern(1<<20))
	const text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"%s\"\n" +
		"RW 6144 SPARSE \"one.vmdk\"\nRW 1000 FLAT \"flat\" 17\nRW 128 SPARSE \"two.vmdk\"\nRW 5 FLAT \"flat\" 0\n"
	write("custom.vmdk", fmt.Appendf(nil, text, "custom"))
	// QEMU knows no custom ones, and yet takes any extents for what it knows.
	write("known.vmdk", fmt.Appendf(nil, text, "twoGbMaxExtentSparse"))
	formatstest.QemuImg(t, "convert", "-O", "raw", at("known.vmdk"), at("want"))
	want, err := os.ReadFile(at("want"))
	if err != nil {
		t.Fatal(err)
	}
	c := mustChain(t, at("custom.vmdk"))
	formatstest.Disk(t, c, bytes.NewReader(want))
	if !bytes.Equal(whole(t, c), want) {
		t.Error("other bytes than QEMU reads")
	}
}

// The descriptor of a disk may stand in the first of its extents.
func TestDescriptorInFirstExtent(t *testing.T) {
	const grain = 4096
	first, second := small(t, "monolithicSparse"), small(t, "monolithicSparse")
	text := "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\nRW 32 SPARSE \"1\"\nRW 32 SPARSE \"2\"\n"
	clear(first[512 : 21*512])
	copy(first[512:], text)
	files := map[string][]byte{"1": first, "2": second}
	open := func(name string) (formats.File, error) {
		if files[name] == nil {
			return formats.File{}, os.ErrNotExist
		}
		return formatstest.File(name, files[name]), nil
	}
	img, err := vmdk.Open(formatstest.File("1", first), open)
	if err != nil {
		t.Fatal(err)
	}
	half := strings.Repeat("\x00", grain) + strings.Repeat("grain", grain)[:grain]
	formatstest.Disk(t, img, strings.NewReader(half+half+half+half))
	delete(files, "2")
	if _, err := vmdk.Open(formatstest.File("1", first), open); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the second: %v", err)
	}
}

// Images of other makers' writers read as QEMU reads them and, where that is
// known, as their makers said.
func TestSamples(t *testing.T) {
	needQemuImg(t)
	for _, c := range []struct{ file, variant, sum string }{
		{"workstation4.vmdk.zst", "monolithicSparse", ""},
		{"vmware-monolithicSparse.vmdk.zst", "monolithicSparse", "a3bcf05f07a1c06a"},
		{"vmware-streamOptimized.vmdk.zst", "streamOptimized", "a3bcf05f07a1c06a"},
		{"vbox-stream.vmdk.zst", "streamOptimized", ""},
		{"iotest-version3.vmdk.bz2", "streamOptimized", ""},
	} {
		t.Run(c.file, func(t *testing.T) {
			path := formatstest.Sample(t, "disks/"+c.file)
			img := mustOpen(t, path)
			if in := img.Info(); in.Variant != c.variant || in.Parent != nil || len(in.Warnings) > 0 {
				t.Errorf("Info = %+v", in)
			}
			raw := path + ".raw"
			formatstest.QemuImg(t, "convert", "-O", "raw", path, raw)
			want, err := os.Open(raw)
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			formatstest.Disk(t, img, want)
			if img.Size() > 1<<30 {
				return
			}
			all := whole(t, img)
			if sum := fmt.Sprintf("%x", sha256.Sum256(all)); !strings.HasPrefix(sum, c.sum) {
				t.Errorf("sha256 %s, want %s…", sum, c.sum)
			}
			exp, err := io.ReadAll(want)
			if err != nil || !bytes.Equal(all, exp) {
				t.Errorf("other bytes than QEMU reads (%v)", err)
			}
		})
	}
}

// What VirtualBox exported is the disk that it also wrote as raw.
func TestWhatVirtualBoxWrites(t *testing.T) {
	want, err := os.ReadFile(formatstest.Sample(t, "disks/vbox-content.raw.xz"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole(t, mustOpen(t, formatstest.Sample(t, "disks/vbox-stream.vmdk.zst"))), want) {
		t.Error("other bytes than the raw disk")
	}
}

// Descriptors whose extents were not copied along name the missing file.
func TestSamplesWithoutTheirExtents(t *testing.T) {
	for file, extent := range map[string]string{
		"vmware-monolithicFlat.vmdk.zst":    "monolithicFlat-flat.vmdk",
		"vmware-vmfs_thick-000001.vmdk.zst": "vmfs_thick-000001-delta.vmdk",
	} {
		path := formatstest.Sample(t, "disks/"+file)
		_, err := chain.Open(path, chain.Policy{})
		var broken *chain.BrokenError
		if !errors.Is(err, os.ErrNotExist) || !errors.As(err, &broken) || !strings.Contains(err.Error(), `"`+extent+`"`) ||
			!strings.Contains(broken.Tree(), extent+"  MISSING") {
			t.Errorf("%s: %v", file, err)
		}
	}
	// With an extent of its size the flat one is a disk.
	path := formatstest.Sample(t, "disks/vmware-monolithicFlat.vmdk.zst")
	want := pattern(20480 * 512)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "monolithicFlat-flat.vmdk"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	c := mustChain(t, path)
	if in := c.Images()[0].Info; in.Variant != "monolithicFlat" || in.Size != 20480*512 {
		t.Errorf("Info = %+v", in)
	}
	formatstest.Disk(t, c, bytes.NewReader(want))
}

// A header says how many grains a table has, and how large they are: other
// numbers than the usual ones are right as well.
func TestUnusualTables(t *testing.T) {
	b := small(t, "monolithicSparse")
	binary.LittleEndian.PutUint32(b[44:], 4) // all of the disk in a table of 16 bytes
	img, err := vmdk.Open(formatstest.File("x.vmdk", b), nil)
	if err != nil {
		t.Fatal(err)
	}
	half := strings.Repeat("\x00", 4096) + strings.Repeat("grain", 4096)[:4096]
	formatstest.Disk(t, img, strings.NewReader(half+half))
}

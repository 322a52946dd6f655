package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/qcow2"
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

// pattern is size bytes with holes and half-compressible noise.
func pattern(size int) []byte {
	r := rand.New(rand.NewPCG(uint64(size), 9))
	b := make([]byte, size)
	for off := 0; off < size; {
		n := min(1+r.IntN(300<<10), size-off)
		switch r.IntN(4) {
		case 0, 1:
			for i := range b[off : off+n] {
				b[off+i] = byte(r.Uint32() >> 28)
			}
		case 2: // does not compress
			for i := range b[off : off+n] {
				b[off+i] = byte(r.Uint32())
			}
		}
		off += n
	}
	return b
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs %s (package qemu-utils)", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func mustOpen(t *testing.T, path string) *qcow2.Image {
	t.Helper()
	dir, name := filepath.Split(path)
	f, err := folder(dir)(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := qcow2.Open(f, folder(dir))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Every kind of image that QEMU writes reads as the raw disk it was made of.
func TestReadQemu(t *testing.T) {
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "out.qcow2")
	for _, c := range []struct {
		options string
		args    []string
	}{
		{"compat=0.10", nil},
		{"compat=1.1", nil},
		{"compat=1.1,cluster_size=512", nil},
		{"compat=1.1,cluster_size=2M", nil},
		{"compat=1.1,refcount_bits=1", nil},
		{"compat=1.1,extended_l2=on,cluster_size=128k", nil},
		{"compat=1.1,preallocation=metadata", nil},
		{"compat=0.10", []string{"-c"}},
		{"compression_type=zlib,cluster_size=4k", []string{"-c"}},
		{"compression_type=zstd", []string{"-c"}},
		{"compression_type=zstd,extended_l2=on", []string{"-c"}},
		{"data_file=" + filepath.Join(dir, "data.raw"), nil},
	} {
		for _, size := range []int{512, 1<<20 + 512, 9 << 20} {
			t.Run(fmt.Sprint(strings.ReplaceAll(c.options, dir+"/", ""), c.args, " ", size), func(t *testing.T) {
				want := pattern(size)
				if err := os.WriteFile(raw, want, 0o600); err != nil {
					t.Fatal(err)
				}
				run(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2", "-o", c.options}, c.args...), raw, out)...)
				dataFile := strings.Contains(c.options, "data_file")
				if dataFile {
					run(t, "qemu-img", "amend", "-f", "qcow2", "-o", "data_file=data.raw", out)
				}
				img := mustOpen(t, out)
				if in := img.Info(); in.Size != int64(size) || in.Parent != nil || len(in.Warnings) > 0 {
					t.Errorf("Info = %+v", in)
				}
				formatstest.Disk(t, img, bytes.NewReader(want))
			})
		}
	}
}

// A child is Absent where it holds nothing, Zero where it was told to be.
func TestReadBacked(t *testing.T) {
	dir := t.TempDir()
	base, child := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "child.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "8M")
	for _, options := range []string{"extended_l2=off", "extended_l2=on", "compat=0.10"} {
		t.Run(options, func(t *testing.T) {
			run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b", "base.qcow2", "-F", "qcow2", child)
			run(t, "qemu-io", "-c", "write -P 0x5a 1M 64k", child)
			want := map[int64]formats.Kind{0: formats.Absent, 1 << 20: formats.Data, 3 << 20: formats.Absent}
			if options != "compat=0.10" {
				run(t, "qemu-io", "-c", "write -z 2M 64k", child)
				want[2<<20] = formats.Zero
			}
			img := mustOpen(t, child)
			if p := img.Info().Parent; p == nil || p.Name != "base.qcow2" || p.Format != "qcow2" {
				t.Errorf("claim %+v", p)
			}
			formatstest.Disk(t, img, nil)
			for off, kind := range want {
				if e, err := img.Extent(off, 1); err != nil || e.Kind != kind {
					t.Errorf("Extent(%d) = %v, %v; want %v", off, e.Kind, err, kind)
				}
			}
		})
	}
}

// Parts of a cluster have states of their own with extended L2 entries.
func TestSubclusters(t *testing.T) {
	dir := t.TempDir()
	base, child := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "child.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "-b", "base.qcow2", "-F", "qcow2", child)
	run(t, "qemu-io", "-c", "write -P 7 4k 2k", "-c", "write -z 8k 2k", child)
	img := mustOpen(t, child)
	list, err := formatstest.Extents(img, 20)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, e := range list {
		got += fmt.Sprintf("%v %d, ", e.Kind, e.Length)
	}
	if want := "absent 4096, data 2048, absent 2048, zero 2048, absent 1038336, "; got != want {
		t.Errorf("extents %s; want %s", got, want)
	}
}

// A part that is both allocated and zero is damage: QEMU refuses to read it, too.
func TestSubclusterOfTwoMinds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", path, "1M")
	run(t, "qemu-io", "-c", "write -P 7 0 4k", path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l1 := binary.BigEndian.Uint64(b[40:])
	l2 := binary.BigEndian.Uint64(b[l1:]) & 0x00fffffffffffe00
	if got := binary.BigEndian.Uint64(b[l2+8:]); got != 3 {
		t.Fatalf("bitmap %#x", got)
	}
	b[l2+8+3] = 2 // bit 33: part 1 is zero
	img, err := qcow2.Open(formatstest.File("x", b), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2048)
	if _, err := img.ReadAt(p, 0); err != nil || p[0] != 7 {
		t.Errorf("part 0: %v", err)
	}
	if _, err := img.ReadAt(p, 2048); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("part 1: %v", err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-io", "-r", "-c", "read 2k 2k", path).CombinedOutput(); err == nil && !strings.Contains(string(out), "failed") {
		t.Errorf("QEMU reads it: %s", out)
	}
}

// All qcow2 that have a data file: it is a raw disk of its own, or not.
func TestDataFile(t *testing.T) {
	for _, raw := range []string{"on", "off"} {
		t.Run("data_file_raw="+raw, func(t *testing.T) {
			dir := t.TempDir()
			path, flat := filepath.Join(dir, "x.qcow2"), filepath.Join(dir, "want")
			cmd := exec.Command("sh", "-ec", `cd "$1"
				qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=$2 x.qcow2 4M
				qemu-io -c "write -P 3 64k 64k" -c "write -P 4 0 1k" -c "write -z 2M 64k" -c "write -P 5 4193792 512" x.qcow2
				qemu-img convert -O raw x.qcow2 want`, "sh", dir, raw)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want, err := os.ReadFile(flat)
			if err != nil {
				t.Fatal(err)
			}
			img := mustOpen(t, path)
			formatstest.Disk(t, img, bytes.NewReader(want))
			got := make([]byte, img.Size())
			if _, err := img.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("other bytes than QEMU reads (%v)", err)
			}
			if fields := fmt.Sprint(img.Info().Fields); !strings.Contains(fields, fmt.Sprintf("{data file raw %v}", raw == "on")) || !strings.Contains(fields, "{data file data}") {
				t.Errorf("fields %s", fields)
			}
			data, err := os.ReadFile(filepath.Join(dir, "data"))
			if err != nil || raw == "on" && !bytes.Equal(data, want) {
				t.Errorf("the data file is no raw disk (%v)", err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := qcow2.Open(formatstest.File("x", b), nil); !errors.Is(err, formats.ErrRefused) {
				t.Errorf("without an opener: %v", err)
			}
		})
	}
}

func TestSnapshotsAreListed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	run(t, "qemu-io", "-c", "write -P 1 0 64k", path)
	run(t, "qemu-img", "snapshot", "-c", "before the update", path)
	run(t, "qemu-img", "snapshot", "-c", "second", path)
	run(t, "qemu-io", "-c", "write -P 2 0 64k", path)
	img := mustOpen(t, path)
	in := img.Info()
	got := fmt.Sprint(in.Fields)
	if !strings.Contains(got, "{snapshots 2}") || !strings.Contains(got, "1 before the update") || !strings.Contains(got, "2 second") {
		t.Errorf("fields %s", got)
	}
	if fmt.Sprint(in.Extras) != "[2 internal snapshots]" {
		t.Errorf("extras %q", in.Extras)
	}
	p := make([]byte, 1)
	if _, err := img.ReadAt(p, 0); err != nil || p[0] != 2 {
		t.Errorf("reads %d, %v: not the disk as it is now", p[0], err)
	}
}

func TestBitmapsAreListed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	run(t, "qemu-img", "bitmap", "--add", path, "nightly")
	run(t, "qemu-img", "bitmap", "--add", "--disable", "-g", "4096", path, "other")
	in := mustOpen(t, path).Info()
	got := fmt.Sprint(in.Fields)
	for _, want := range []string{"{dirty bitmaps 2}", "{dirty bitmap 1 nightly, granularity 65536, auto}", "{dirty bitmap 2 other, granularity 4096}"} {
		if !strings.Contains(got, want) {
			t.Errorf("fields %s; want %s", got, want)
		}
	}
	if fmt.Sprint(in.Extras) != "[2 dirty bitmaps]" || len(in.Warnings) > 0 {
		t.Errorf("extras %q, warnings %q", in.Extras, in.Warnings)
	}
	// Somebody who does not know bitmaps has written to the disk.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[95] &^= 1
	img, err := qcow2.Open(formatstest.File("b", b), nil)
	if err != nil {
		t.Fatal(err)
	}
	if in := img.Info(); len(in.Extras) > 0 || !strings.Contains(fmt.Sprint(in.Fields), "outdated") {
		t.Errorf("outdated: %+v", in)
	}
}

func TestEncryptedIsRefused(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img (package qemu-utils)")
	}
	for format, say := range map[string]string{"luks": "LUKS", "aes": "AES"} {
		path := filepath.Join(t.TempDir(), format)
		options := "encrypt.format=" + format + ",encrypt.key-secret=s"
		if format == "luks" {
			options += ",encrypt.iter-time=10"
		}
		for try := 0; ; try++ {
			out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", options, path, "1M").CombinedOutput()
			if err == nil {
				break
			}
			// It measures how fast it is, and gives up where others make that vary.
			if try > 20 || !strings.Contains(string(out), "CPU usage") {
				t.Fatalf("qemu-img: %v\n%s", err, out)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := qcow2.Open(formatstest.File(path, b), nil); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: got %v", format, err)
		}
	}
}

// What we write with any size of cluster is what QEMU takes for whole, and for
// the same disk.
func TestEveryClusterSize(t *testing.T) {
	dir := t.TempDir()
	path, raw := filepath.Join(dir, "x.qcow2"), filepath.Join(dir, "raw")
	for size := int64(512); size <= 2<<20; size *= 2 {
		data := pattern(int(min(max(2<<20, 3*size), 5<<20)) + 512)
		if err := os.WriteFile(raw, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, compression := range []string{"none", "zlib", "zstd"} {
			b := written(t, data, qcow2.Options{ClusterSize: size, Compression: compression})
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "qemu-img", "check", "-q", path)
			run(t, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, raw)
			img := mustOpen(t, path)
			if list := formatstest.Problems(t, img); len(list) > 0 {
				t.Errorf("clusters of %d, %s: %+v", size, compression, list)
			}
			in := img.Info()
			if in.ClusterSz != size || in.Variant != "v3" || strings.Contains(fmt.Sprint(in.Fields), "lazy") {
				t.Errorf("clusters of %d, %s: %+v", size, compression, in)
			}
			if info := run(t, "qemu-img", "info", path); !strings.Contains(info, fmt.Sprintf("cluster_size: %d\n", size)) || !strings.Contains(info, "lazy refcounts: false") {
				t.Errorf("QEMU says:\n%s", info)
			}
		}
	}
}

// written makes an image with our writer.
func written(t testing.TB, data []byte, opt qcow2.Options) []byte {
	t.Helper()
	var out writerAt
	w, err := qcow2.NewWriter(&out, int64(len(data)), opt)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(data); off += int(opt.ClusterSize) {
		cluster := append(bytes.Clone(data[off:min(off+int(opt.ClusterSize), len(data))]), make([]byte, opt.ClusterSize)...)[:opt.ClusterSize]
		if len(bytes.Trim(cluster, "\x00")) == 0 {
			continue
		}
		var packed []byte
		if p != nil {
			if packed, err = p.Pack(nil, int64(off), cluster); err != nil {
				t.Fatal(err)
			}
		}
		var host int64
		if len(packed) > 0 {
			cluster = packed
			host, err = w.PlacePacked(int64(off), len(packed))
		} else {
			host, _, err = w.Place(int64(off), opt.ClusterSize)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.WriteAt(cluster, host); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	return out
}

// patch changes bytes of the header of a fresh image.
func patch(t *testing.T, off int, b ...byte) []byte {
	t.Helper()
	img := small(t, qcow2.Options{ClusterSize: 512})
	copy(img[off:], b)
	return img
}

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		name  string
		image []byte
		want  error
		say   string
	}{
		{"unknown incompatible feature", patch(t, 72, 0, 0, 0, 0, 0, 0, 0x02, 0), formats.ErrUnsupported, "bit 9"},
		{"version 9", patch(t, 4, 0, 0, 0, 9), formats.ErrUnsupported, "version 9"},
		{"huge cluster", patch(t, 20, 0, 0, 0, 40), formats.ErrCorrupt, "cluster_bits"},
		{"huge L1", patch(t, 36, 0xff, 0, 0, 0), formats.ErrCorrupt, "L1"},
		{"L1 too small", patch(t, 24, 0, 0, 0, 1), formats.ErrCorrupt, "L1"},
		{"L1 outside", patch(t, 40, 0, 0, 1), formats.ErrTruncated, "L1"},
		{"AES", patch(t, 32, 0, 0, 0, 1), formats.ErrUnsupported, "AES"},
		{"data file without name", patch(t, 72, 0, 0, 0, 0, 0, 0, 0, 4), formats.ErrCorrupt, "data file"},
		{"compression type 7", patch(t, 104, 7), formats.ErrCorrupt, "compression type 7"},
		{"not qcow2", patch(t, 0, 'X'), formats.ErrFormat, ""},
		{"cut header", patch(t, 0)[:50], formats.ErrTruncated, ""},
		{"cut", patch(t, 0)[:1000], formats.ErrTruncated, ""},
		{"empty", nil, formats.ErrFormat, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			img, err := qcow2.Open(formatstest.File("x", c.image), nil)
			if err == nil {
				err = formatstest.Every(img, 1<<20)
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v; want %v, %q", err, c.want, c.say)
			}
		})
	}
	img, err := qcow2.Open(formatstest.File("x", patch(t, 72, 0, 0, 0, 0, 0, 0, 0, 3)), nil)
	if err != nil || len(img.Info().Warnings) != 1 {
		t.Errorf("dirty and corrupt: %v, warnings %q", err, img.Info().Warnings)
	}
}

// A feature that nobody here knows is called by the name in the image.
func TestFeatureName(t *testing.T) {
	img := small(t, qcow2.Options{ClusterSize: 4096})
	binary.BigEndian.PutUint64(img[72:], 1<<20)
	ext := img[112:]
	binary.BigEndian.PutUint32(ext, 0x6803f857)
	binary.BigEndian.PutUint32(ext[4:], 48)
	ext[8], ext[9] = 0, 20
	copy(ext[10:], "time travel")
	if _, err := qcow2.Open(formatstest.File("x", img), nil); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "time travel") {
		t.Errorf("got %v", err)
	}
}

func TestSamples(t *testing.T) {
	data := os.Getenv("H2K_TESTDATA")
	if data == "" {
		t.Skip("needs H2K_TESTDATA, a folder of sample images")
	}
	dir := t.TempDir()
	for _, name := range []string{"compat010.qcow2", "windows_volume.qcow2"} {
		path := filepath.Join(dir, name)
		run(t, "zstd", "-dqf", filepath.Join(data, "disks", name+".zst"), "-o", path)
		run(t, "qemu-img", "convert", "-O", "raw", path, path+".raw")
		want, err := os.Open(path + ".raw")
		if err != nil {
			t.Fatal(err)
		}
		defer want.Close()
		formatstest.Disk(t, mustOpen(t, path), want)
	}
}

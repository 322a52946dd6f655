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

// memory is a file that a test made up.
func memory(name string, b []byte) formats.File {
	return formats.File{ReaderAt: bytes.NewReader(b), Size: int64(len(b)), Name: name}
}

// folder opens what an image names in one folder.
func folder(dir string) formats.Opener {
	return func(name string) (formats.File, error) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return formats.File{}, err
		}
		return memory(name, b), nil
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

func TestSnapshotsAreListed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	run(t, "qemu-img", "snapshot", "-c", "before the update", path)
	run(t, "qemu-img", "snapshot", "-c", "second", path)
	got := fmt.Sprint(mustOpen(t, path).Info().Fields)
	if !strings.Contains(got, "1 before the update") || !strings.Contains(got, "2 second") {
		t.Errorf("fields %s", got)
	}
}

func TestEncryptedIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "luks.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x",
		"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, "1M")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := qcow2.Open(memory(path, b), nil); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "LUKS") {
		t.Errorf("got %v", err)
	}
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
			img, err := qcow2.Open(memory("x", c.image), nil)
			if err == nil {
				err = formatstest.Every(img, 1<<20)
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v; want %v, %q", err, c.want, c.say)
			}
		})
	}
	img, err := qcow2.Open(memory("x", patch(t, 72, 0, 0, 0, 0, 0, 0, 0, 3)), nil)
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
	if _, err := qcow2.Open(memory("x", img), nil); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "time travel") {
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

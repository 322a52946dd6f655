package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/raw"
	"hyper2kvm/formats/vmdk"
	"hyper2kvm/image/hostfile"
)

// sources are disks of all shapes that matter to a layout.
func sources() map[string][]byte {
	noise := func(n int, mask byte) []byte {
		r := rand.New(rand.NewPCG(uint64(n), uint64(mask)))
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32()) & mask
		}
		return b
	}
	sparse := make([]byte, 9<<20)
	for _, at := range []int{0, 100 << 10, 1 << 20, 1<<20 + 70<<10, 4<<20 - 512, 8 << 20, 9<<20 - 1} {
		copy(sparse[at:], noise(5000, 0xff))
	}
	mixed := append(noise(1<<20, 0xff), append(make([]byte, 1<<20), noise(2<<20, 0x0f)...)...)
	return map[string][]byte{
		"empty":        make([]byte, 3<<20),
		"one sector":   noise(512, 0xff),
		"full":         noise(3<<20+8192, 0xff),
		"compressible": noise(2<<20, 0x07),
		"mixed":        mixed,
		"sparse":       sparse,
		"odd size":     noise(3<<20+512, 0x3f),
		"not sectors":  noise(70_001, 0xff),
	}
}

// rawFile writes content with holes and opens it as a disk with plain
// locations.
func rawFile(t *testing.T, path string, content []byte) formats.Disk {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := 0; off < len(content); off += 4096 {
		if p := content[off:min(off+4096, len(content))]; !isZero(p) {
			if _, err := f.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	h, err := hostfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return raw.New(h.Format())
}

// Everything that is written passes qemu-img check, reads in QEMU as the
// source, and is the same bytes for any number of workers, with and without
// the kernel's help.
func TestRun(t *testing.T) {
	outputs := []Options{
		{Format: "qcow2"},
		{Format: "qcow2", ClusterSize: 512},
		{Format: "qcow2", ClusterSize: 2 << 20},
		{Format: "qcow2", Compress: "zlib"},
		{Format: "qcow2", Compress: "zstd"},
		{Format: "qcow2", Compress: "zlib", ClusterSize: 4096},
		{Format: "raw"},
		{Format: "vmdk"},
		{Format: "vmdk", Variant: "streamOptimized"},
		{Format: "vhdx"},
	}
	no, yes := false, true
	for name, content := range sources() {
		dir := t.TempDir()
		src := filepath.Join(dir, "src.raw")
		disk := rawFile(t, src, content)
		mem := memory(t, content)
		for _, opt := range outputs {
			t.Run(fmt.Sprintf("%s to %s %s%s %d", name, opt.Format, opt.Variant, opt.Compress, opt.ClusterSize), func(t *testing.T) {
				var first []byte
				for i, c := range []struct {
					disk    formats.Disk
					workers int
					offload *bool
				}{{disk, 1, &no}, {disk, 3, &yes}, {mem, 2, nil}} {
					o := opt
					o.Workers, o.offload, o.Verify, o.Force, o.Sources = c.workers, c.offload, true, true, []string{src}
					out := filepath.Join(dir, "out")
					res, err := Run(t.Context(), c.disk, out, o)
					if err != nil {
						t.Fatal(err)
					}
					got, err := os.ReadFile(out)
					if err != nil {
						t.Fatal(err)
					}
					if i == 0 {
						first = got
						checkOutput(t, src, out, res, o)
					} else if !bytes.Equal(got, first) {
						t.Errorf("run %d: other bytes than the first run", i)
					}
				}
			})
		}
	}
}

func memory(t *testing.T, content []byte) *formatstest.Memory {
	t.Helper()
	m := formatstest.NewMemory(int64(len(content)))
	for off := 0; off < len(content); off += 4096 {
		if p := content[off:min(off+4096, len(content))]; !isZero(p) {
			if _, err := m.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m.Ready()
}

// checkOutput has QEMU judge the first of several equal outputs.
func checkOutput(t *testing.T, src, out string, res Result, opt Options) {
	t.Helper()
	if opt.Format != "raw" {
		formatstest.QemuImg(t, "check", "-q", "-f", opt.Format, out)
	}
	formatstest.QemuImg(t, "compare", "-q", "-f", "raw", "-F", opt.Format, src, out)
	if res.Written == 0 && !strings.Contains(t.Name(), "empty_to") {
		t.Errorf("Result = %+v", res)
	}
	entries, err := os.ReadDir(filepath.Dir(out))
	if err != nil || len(entries) != 2 {
		t.Errorf("folder holds %v, %v; want source and output", entries, err)
	}
}

// The output depends on what the guest sees, not on how the source holds it.
func TestSameBytesFromAnySource(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src.raw")
	disk := rawFile(t, src, sources()["sparse"])
	for _, variant := range []string{"monolithicSparse", "streamOptimized"} {
		formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+variant, src, filepath.Join(dir, variant))
	}
	sum := func(d formats.Disk) string {
		out := filepath.Join(dir, "out.qcow2")
		if _, err := Run(t.Context(), d, out, Options{Force: true}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(sha256.New().Sum(b))
	}
	want := sum(disk)
	for _, variant := range []string{"monolithicSparse", "streamOptimized"} {
		h, err := hostfile.Open(filepath.Join(dir, variant))
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		img, err := vmdk.Open(h.Format(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if sum(img) != want {
			t.Errorf("%s gives other bytes than raw", variant)
		}
	}
}

// A huge disk costs what it holds, in time, memory and room.
func TestHuge(t *testing.T) {
	const size = 8 << 40
	m := formatstest.NewMemory(size)
	data := bytes.Repeat([]byte("data"), 64<<10)
	for _, off := range []int64{0, 1 << 40, 5<<40 + 4096, size - int64(len(data))} {
		if _, err := m.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	m.Ready()
	// A walk of every cluster would take far longer than this.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, opt := range []Options{{}, {Format: "raw"}, {Compress: "zstd"}} {
		opt.Verify = true
		out := filepath.Join(t.TempDir(), "out")
		res, err := Run(ctx, m, out, opt)
		if err != nil {
			t.Fatal(err)
		}
		if res.Size != size || res.Allocated > 4<<20 || res.Written < int64(4*len(data)) {
			t.Errorf("%+v: %+v", opt, res)
		}
	}
}

// What offloads on this machine's file system or not, a file system that can
// share blocks gives the same bytes, and takes no room for them.
func TestSharedBlocks(t *testing.T) {
	dir := mountXFS(t)
	content := sources()["full"]
	content = append(content, content...)
	disk := rawFile(t, filepath.Join(dir, "src.raw"), content)
	out := filepath.Join(dir, "out.qcow2")
	if _, err := Run(t.Context(), disk, out, Options{Verify: true}); err != nil {
		t.Fatal(err)
	}
	formatstest.QemuImg(t, "compare", "-q", "-f", "raw", filepath.Join(dir, "src.raw"), out)
	got, err := exec.Command("filefrag", "-v", out).CombinedOutput()
	if err != nil {
		t.Skipf("needs filefrag (package e2fsprogs): %v", err)
	}
	if !bytes.Contains(got, []byte("shared")) {
		t.Errorf("no block is shared:\n%s", got)
	}
}

func mountXFS(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	img, mnt := filepath.Join(dir, "xfs.img"), filepath.Join(dir, "mnt")
	script := `truncate -s 400M "$1" && mkfs.xfs -q -m reflink=1 "$1" && mkdir "$2" && mount -o loop "$1" "$2"`
	if out, err := exec.Command("sh", "-c", script, "sh", img, mnt).CombinedOutput(); err != nil {
		t.Skipf("cannot mount an XFS of our own: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return mnt
}

func TestProgress(t *testing.T) {
	m := memory(t, sources()["sparse"])
	var last, total int64
	_, err := Run(t.Context(), m, filepath.Join(t.TempDir(), "out"), Options{Workers: 4, Progress: func(done, of int64) {
		if done < last || total != 0 && of != total {
			t.Errorf("progress went from %d of %d to %d of %d", last, total, done, of)
		}
		last, total = done, of
	}})
	if err != nil || last == 0 || last != total {
		t.Errorf("ended at %d of %d, %v", last, total, err)
	}
}

func TestDigest(t *testing.T) {
	for name, content := range sources() {
		sum := sha256.Sum256(content)
		got, err := Digest(t.Context(), memory(t, content), nil)
		if err != nil || got != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	res, err := Run(t.Context(), memory(t, sources()["mixed"]), filepath.Join(t.TempDir(), "out"), Options{Digest: true})
	sum := sha256.Sum256(sources()["mixed"])
	if err != nil || res.Digest != hex.EncodeToString(sum[:]) {
		t.Errorf("Result = %+v, %v", res, err)
	}
}

func TestCompare(t *testing.T) {
	content := sources()["sparse"]
	longer := append(bytes.Clone(content), make([]byte, 4096)...)
	changed := bytes.Clone(content)
	changed[8<<20+77]++
	inHole := bytes.Clone(content)
	inHole[6<<20] = 1
	tail := bytes.Clone(longer)
	tail[len(tail)-1] = 1
	for _, c := range []struct {
		name string
		b    []byte
		at   int64 // -1: equal
	}{
		{"equal", content, -1},
		{"longer by zeroes", longer, -1},
		{"one byte", changed, 8<<20 + 77},
		{"in a hole", inHole, 6 << 20},
		{"beyond the end", tail, int64(len(tail)) - 1},
	} {
		for _, swap := range []bool{false, true} {
			x, y := memory(t, content), memory(t, c.b)
			if swap {
				x, y = y, x
			}
			at, err := Compare(t.Context(), x, y, nil)
			if c.at < 0 && err != nil || c.at >= 0 && (!errors.Is(err, ErrDiffer) || at != c.at) {
				t.Errorf("%s: %d, %v; want %d", c.name, at, err, c.at)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	m := formatstest.NewMemory(1 << 20).Ready()
	for _, opt := range []Options{
		{Format: "floppy"}, {Format: "vdi", Compress: "zlib"}, {Format: "vhd", Variant: "thick"}, {Format: "raw", Compress: "zlib"}, {Format: "qcow2", Variant: "x"}, {Format: "vmdk", Compress: "zstd"},
		{Format: "vmdk", Variant: "floppy"}, {Compress: "lzma"}, {ClusterSize: 1000}, {Format: "vhdx", Compress: "zlib"}, {Format: "vhdx", Sector: 520},
	} {
		dir := t.TempDir()
		if _, err := Run(t.Context(), m, filepath.Join(dir, "out"), opt); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", opt, err)
		}
		nothingLeft(t, dir)
	}
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("folder holds %v, %v; want nothing", list, err)
	}
}

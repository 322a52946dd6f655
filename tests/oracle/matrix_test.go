// Package oracle holds all disk formats against each other and against
// qemu-img: every source format to every target format, for every kind of
// content; and it kills conversions at random moments to see that what they
// leave is finished, byte for byte, by the next run.
package oracle

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats/formatstest"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/convert"
)

// source is an image as QEMU writes it.
type source struct {
	name   string
	format string   // as qemu-img calls it
	flags  []string // of qemu-img convert
	// read is the format to open it as; "" detects it.
	read string
}

// sources are the formats that are read, one a line.
func sources() []source {
	return []source{
		{name: "raw", format: "raw", read: "raw"},
		{name: "qcow2", format: "qcow2"},
		{name: "qcow2 v2", format: "qcow2", flags: []string{"-o", "compat=0.10"}},
		{name: "qcow2 zlib", format: "qcow2", flags: []string{"-c"}},
		{name: "qcow2 zstd", format: "qcow2", flags: []string{"-c", "-o", "compression_type=zstd"}},
		{name: "qcow2 512", format: "qcow2", flags: []string{"-o", "cluster_size=512"}},
		{name: "qcow2 extended L2", format: "qcow2", flags: []string{"-o", "extended_l2=on,cluster_size=64k"}},
		{name: "vmdk sparse", format: "vmdk"},
		{name: "vmdk stream", format: "vmdk", flags: []string{"-o", "subformat=streamOptimized"}},
		{name: "vmdk flat", format: "vmdk", flags: []string{"-o", "subformat=monolithicFlat"}},
		{name: "vmdk 2gb sparse", format: "vmdk", flags: []string{"-o", "subformat=twoGbMaxExtentSparse"}},
		{name: "vmdk 2gb flat", format: "vmdk", flags: []string{"-o", "subformat=twoGbMaxExtentFlat"}},
		{name: "vhd", format: "vpc", flags: []string{"-o", "force_size=on"}},
		{name: "vhd fixed", format: "vpc", flags: []string{"-o", "subformat=fixed,force_size=on"}},
		{name: "vhdx", format: "vhdx"},
		{name: "vhdx fixed 1M", format: "vhdx", flags: []string{"-o", "subformat=fixed,block_size=1M"}},
		{name: "vdi", format: "vdi"},
		{name: "vdi fixed", format: "vdi", flags: []string{"-o", "static=on"}},
	}
}

// target is an image as we write it.
type target struct {
	name string
	opt  convert.Options
	// format is what qemu-img calls it; "" where qemu-img is no judge.
	format string
	check  bool // qemu-img check knows it
}

// targets are the formats that are written, one a line.
func targets() []target {
	return []target{
		{"raw", convert.Options{Format: "raw"}, "raw", false},
		{"qcow2", convert.Options{Format: "qcow2"}, "qcow2", true},
		{"qcow2 zlib", convert.Options{Format: "qcow2", Compress: "zlib"}, "qcow2", true},
		{"qcow2 zstd", convert.Options{Format: "qcow2", Compress: "zstd"}, "qcow2", true},
		{"qcow2 2M", convert.Options{Format: "qcow2", ClusterSize: 2 << 20}, "qcow2", true},
		{"vmdk", convert.Options{Format: "vmdk"}, "vmdk", true},
		{"vmdk stream", convert.Options{Format: "vmdk", Variant: "streamOptimized"}, "vmdk", true},
		{"vhd", convert.Options{Format: "vhd"}, "vpc", false},
		{"vhd fixed", convert.Options{Format: "vhd", Variant: "fixed"}, "vpc", false},
		{"vhdx", convert.Options{Format: "vhdx"}, "vhdx", true},
		{"vhdx fixed", convert.Options{Format: "vhdx", Variant: "fixed"}, "vhdx", true},
		{"vdi", convert.Options{Format: "vdi"}, "vdi", true},
		{"vdi fixed", convert.Options{Format: "vdi", Variant: "fixed"}, "vdi", true},
	}
}

// pattern is the content of a guest.
type pattern struct {
	name string
	data []byte
}

func patterns() []pattern {
	noise := func(n int, mask byte) []byte {
		r := rand.New(rand.NewPCG(uint64(n), uint64(mask)))
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32()) & mask
		}
		return b
	}
	sparse := make([]byte, 9<<20)
	for _, at := range []int{0, 100 << 10, 1 << 20, 1<<20 + 70<<10, 4<<20 - 512, 8 << 20, 9<<20 - 5000} {
		copy(sparse[at:], noise(5000, 0xff))
	}
	return []pattern{
		{"empty", make([]byte, 5<<20)},
		{"full", noise(4<<20, 0xff)},
		{"sparse", sparse},
		{"compressible", noise(3<<20, 0x03)},
		{"unaligned", noise(3<<20+512*7, 0x3f)},
		{"tiny", noise(512, 0xff)},
	}
}

// workDir is a folder in memory where there is one: these tests sync a lot.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "h2k-oracle-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// judged remembers outputs that an oracle has found right: an output is a
// function of what the guest sees, so that one verdict holds for all sources.
type judged map[string][sha256.Size]byte

// TestMatrix converts every source to every target for every pattern.
func TestMatrix(t *testing.T) {
	seen := judged{}
	for _, p := range patterns() {
		if testing.Short() && p.name != "sparse" {
			continue
		}
		dir := workDir(t)
		want := filepath.Join(dir, "want.raw")
		write(t, want, p.data)
		for _, s := range sources() {
			src := filepath.Join(dir, strings.ReplaceAll(s.name, " ", "-"))
			formatstest.QemuImg(t, append(append([]string{"convert", "-f", "raw", "-O", s.format}, s.flags...), want, src)...)
			convertAll(t, seen, p.name, s.name, src, s.read, want)
		}
	}
}

// TestChains converts images of four layers, each of which changes something.
func TestChains(t *testing.T) {
	seen := judged{}
	for _, format := range []string{"qcow2", "vmdk"} {
		dir := workDir(t)
		top, data := fourDeep(t, dir, format)
		want := filepath.Join(dir, "want.raw")
		write(t, want, data)
		convertAll(t, seen, "chain", format, top, "", want)
	}
}

// fourDeep makes a base and three snapshots over it, and returns the newest and
// what it must read as.
func fourDeep(t *testing.T, dir, format string) (top string, want []byte) {
	t.Helper()
	want = make([]byte, 4<<20)
	copy(want, patterns()[1].data[:3<<20])
	raw := filepath.Join(dir, "base.raw")
	write(t, raw, want)
	top = filepath.Join(dir, "0."+format)
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", format, raw, top)
	for i := 1; i < 4; i++ {
		next := filepath.Join(dir, fmt.Sprintf("%d.%s", i, format))
		formatstest.QemuImg(t, "create", "-q", "-f", format, "-F", format, "-b", filepath.Base(top), next)
		at, n := i<<20-30000/512*512, 70000/512*512 // across the border of the base's end, for the last
		for j := range n {
			want[at+j] = byte(i)
		}
		// Zeroes over data must hide it.
		clear(want[i<<18 : i<<18+4096])
		script := fmt.Sprintf("write -q -P %d %d %d\nwrite -q -P 0 %d 4096\n", i, at, n, i<<18)
		cmd := exec.Command("qemu-io", "-f", format, next)
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("qemu-io: %v\n%s", err, out)
		}
		top = next
	}
	return top, want
}

// convertAll converts one source to all targets.
func convertAll(t *testing.T, seen judged, pattern, name, src, format, want string) {
	for _, to := range targets() {
		t.Run(fmt.Sprintf("%s, %s to %s", pattern, name, to.name), func(t *testing.T) {
			disk, err := chain.Open(src, chain.Policy{Format: format})
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			// The descriptor of a VMDK holds the name: it is the same for all.
			out := filepath.Join(filepath.Dir(src), "out")
			opt := to.opt
			opt.Force, opt.Verify = true, true
			if _, err := convert.Run(t.Context(), disk, out, opt); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			sum, key := sha256.Sum256(data), fmt.Sprintf("%s %s %d", pattern, to.name, disk.Size())
			if old, ok := seen[key]; ok {
				if old != sum {
					t.Errorf("other bytes than from other sources of the same content")
				}
				return
			}
			judge(t, to, out, want)
			seen[key] = sum
		})
	}
}

// judge has QEMU compare the output with the raw content, and check it.
func judge(t *testing.T, to target, out, want string) {
	t.Helper()
	if to.check {
		formatstest.QemuImg(t, "check", "-q", "-f", to.format, out)
	}
	if to.format != "" {
		formatstest.QemuImg(t, "compare", "-q", "-f", "raw", "-F", to.format, want, out)
		return
	}
	a, err := chain.Open(want, chain.Policy{Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := chain.Open(out, chain.Policy{Format: to.opt.Format})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if off, err := convert.Compare(t.Context(), a, b, nil); err != nil {
		t.Errorf("at %d: %v", off, err)
	}
}

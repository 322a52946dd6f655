package disk

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hyper2kvm/formats/detect"
	"hyper2kvm/image/convert"
	"hyper2kvm/image/hostfile"
)

// rounds is how often each side runs; the medians are compared.
const rounds = 5

// work is one conversion and the peer's command line for it.
type work struct {
	name   string
	source func(b *testing.B, raw string) string // makes the source beside the raw disk
	opt    convert.Options
	peer   []string
}

func works() []work {
	convertTo := func(name string, options ...string) func(*testing.B, string) string {
		return func(b *testing.B, raw string) string {
			out := filepath.Join(filepath.Dir(raw), name)
			if _, err := os.Stat(out); err != nil {
				qemuImg(b, append(append([]string{"convert", "-f", "raw"}, options...), raw, out)...)
			}
			return out
		}
	}
	sparse := convertTo("sparse.vmdk", "-O", "vmdk")
	stream := convertTo("stream.vmdk", "-O", "vmdk", "-o", "subformat=streamOptimized")
	asIs := func(_ *testing.B, raw string) string { return raw }
	fast := []string{"convert", "-W", "-m", "16"}
	return []work{
		{"sparse VMDK to qcow2", sparse, convert.Options{}, append(fast, "-O", "qcow2")},
		{"streamOptimized VMDK to qcow2", stream, convert.Options{}, append(fast, "-O", "qcow2")},
		{"raw to qcow2 zlib", asIs, convert.Options{Compress: "zlib"}, append(fast, "-c", "-O", "qcow2")},
		{"raw to qcow2 zstd", asIs, convert.Options{Compress: "zstd"}, append(fast, "-c", "-O", "qcow2", "-o", "compression_type=zstd")},
		{"sparse VMDK to raw", sparse, convert.Options{Format: "raw"}, append(fast, "-O", "raw")},
	}
}

// BenchmarkRatio reports our time as a part of the peer's (ratio), our memory
// (MiB), and our size as a part of the peer's (size).
func BenchmarkRatio(b *testing.B) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		b.Skip("needs qemu-img (package qemu-utils)")
	}
	raw := filepath.Join(b.TempDir(), "disk.raw")
	realData(b, raw, 1<<30)
	for _, w := range works() {
		b.Run(strings.ReplaceAll(w.name, " ", "_"), func(b *testing.B) {
			for b.Loop() {
				w.measure(b, w.source(b, raw))
			}
		})
	}
}

func (w work) measure(b *testing.B, src string) {
	b.Helper()
	dir := filepath.Dir(src)
	out := filepath.Join(dir, "out")
	var ours, peers []time.Duration
	var sizes [2]int64
	for range rounds {
		peers = append(peers, timed(b, out, func() { qemuImg(b, append(slices.Clone(w.peer), src, out)...) }))
		sizes[1] = remove(b, out)
		resetPeak(b)
		ours = append(ours, timed(b, out, func() { w.run(b, src, out) }))
		sizes[0] = remove(b, out)
	}
	slices.Sort(ours)
	slices.Sort(peers)
	mid, peer := ours[rounds/2], peers[rounds/2]
	b.ReportMetric(mid.Seconds()/peer.Seconds(), "ratio")
	b.ReportMetric(float64(sizes[0])/float64(sizes[1]), "size")
	b.ReportMetric(peak(b), "MiB")
	b.ReportMetric(mid.Seconds(), "s")
	b.ReportMetric(peer.Seconds(), "qemu-s")
	b.ReportMetric(0, "ns/op") // hides the sum of all rounds
}

func (w work) run(b *testing.B, src, out string) {
	b.Helper()
	h, err := hostfile.Open(src)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	img, err := detect.OpenAs(strings.TrimPrefix(filepath.Ext(src), "."), h.Format(), nil)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := convert.Run(b.Context(), img, out, w.opt); err != nil {
		b.Fatal(err)
	}
}

// timed begins with nothing left to write from the round before.
func timed(b *testing.B, out string, do func()) time.Duration {
	b.Helper()
	if err := exec.Command("sync", "-f", filepath.Dir(out)).Run(); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	do()
	return time.Since(start)
}

func remove(b *testing.B, path string) int64 {
	b.Helper()
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		b.Fatal(err)
	}
	return info.Size()
}

func qemuImg(b *testing.B, args ...string) {
	b.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		b.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// resetPeak and peak read the largest resident size since the reset (proc(5)).
func resetPeak(b *testing.B) {
	b.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Logf("memory is that of all rounds: %v", err)
	}
}

func peak(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	return 0
}

// realData makes a disk of twice size bytes with size bytes of this machine's
// libraries and programs in it, in runs with holes between: what a system disk
// looks like.
func realData(b *testing.B, path string, size int64) {
	b.Helper()
	out, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(2 * size); err != nil {
		b.Fatal(err)
	}
	off := int64(0)
	for left := size; left > 0; {
		before := left
		err := filepath.WalkDir("/usr/lib", func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || left <= 0 {
				return nil // unreadable folders are no matter
			}
			n := pour(out, off, name, left)
			left -= n
			off += 2 * n &^ 4095
			return nil
		})
		if err != nil || left == before {
			b.Fatal(fmt.Errorf("gather data from /usr/lib: %d bytes left, %w", left, err))
		}
	}
}

// pour copies a file to the place and returns how much it was.
func pour(out *os.File, off int64, name string, limit int64) int64 {
	f, err := os.Open(name)
	if err != nil {
		return 0
	}
	defer f.Close()
	n, err := io.Copy(io.NewOffsetWriter(out, off), io.LimitReader(f, limit))
	if err != nil {
		return 0
	}
	return n
}

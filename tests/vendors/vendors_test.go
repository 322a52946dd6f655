//go:build vendors

// Package vendors has the writers and readers of VMware and VirtualBox judge
// ours, and ours theirs. Their tools are fetched by fetch.sh: make test-vendors.
package vendors

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/image/chain"
	"hyper2kvm/image/convert"
)

const mib = 1 << 20

// tool runs a program of a vendor.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	dir := os.Getenv("H2K_VENDORS")
	if dir == "" {
		t.Fatal("H2K_VENDORS names no folder; make test-vendors fetches the tools")
	}
	if out, err := exec.Command(filepath.Join(dir, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// content makes a raw disk: text, noise, holes, and a size that is a whole
// number of sectors but of no larger unit.
func content(t *testing.T, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "content.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, 3*mib)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise) // never fails
	text := bytes.Repeat([]byte("migrate me "), 100_000)
	for _, p := range []struct {
		off  int64
		data []byte
	}{{0, text}, {510, []byte{0x55, 0xAA}}, {2*mib + 512, noise}, {size / 2, text}, {size - 4096, noise[:4096]}} {
		if _, err := f.WriteAt(p.data, p.off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// same compares what a guest sees on two images.
func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := chain.Open(a, chain.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	y, err := chain.Open(b, chain.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	if x.Size() != y.Size() {
		t.Errorf("%s has %d bytes, %s %d", filepath.Base(a), x.Size(), filepath.Base(b), y.Size())
	}
	if _, err := convert.Compare(t.Context(), x, y, nil); err != nil {
		t.Errorf("%s and %s: %v", filepath.Base(a), filepath.Base(b), err)
	}
}

// sizes: small, and across the 2 GiB at which split images begin a new file.
// VirtualBox rounds a VMDK up to whole grains of 64 KiB.
func sizes() map[string]int64 {
	return map[string]int64{"small": 17*mib + 64<<10, "5 GiB": 5<<30 + 64<<10}
}

func TestWeReadWhatVirtualBoxWrites(t *testing.T) {
	for name, size := range sizes() {
		dir := t.TempDir()
		raw := content(t, dir, size)
		for _, format := range []string{
			"VDI Standard", "VDI Fixed", "VHD Standard", "VHD Fixed", "VMDK Standard", "VMDK Fixed", "VMDK Split2G", "VMDK Stream",
		} {
			kind, variant, _ := strings.Cut(format, " ")
			if size > 1<<30 && variant == "Fixed" {
				continue // gigabytes of zeroes show nothing that the small one does not
			}
			t.Run(name+" "+format, func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "disk."+strings.ToLower(kind))
				tool(t, "vbox-img", "convert", "--srcfilename", raw, "--srcformat", "RAW", "--dstfilename", out, "--dstformat", kind, "--variant", variant)
				same(t, raw, out)
			})
		}
	}
}

func TestVirtualBoxReadsWhatWeWrite(t *testing.T) {
	for name, size := range sizes() {
		dir := t.TempDir()
		raw := content(t, dir, size)
		for _, opt := range []convert.Options{
			{Format: "vdi"}, {Format: "vdi", Variant: "fixed"}, {Format: "vhd"}, {Format: "vhd", Variant: "fixed"},
			{Format: "vhdx"}, {Format: "vhdx", Variant: "fixed"}, {Format: "vmdk"}, {Format: "vmdk", Variant: "streamOptimized"},
		} {
			if size > 1<<30 && opt.Variant == "fixed" {
				continue
			}
			t.Run(name+" "+opt.Format+" "+opt.Variant, func(t *testing.T) {
				back := filepath.Join(t.TempDir(), "back.raw")
				tool(t, "vbox-img", "convert", "--srcfilename", written(t, raw, opt), "--srcformat", strings.ToUpper(opt.Format),
					"--dstfilename", back, "--dstformat", "RAW")
				same(t, raw, back)
			})
		}
	}
}

// written converts raw with our own writer.
func written(t *testing.T, raw string, opt convert.Options) string {
	t.Helper()
	src, err := chain.Open(raw, chain.Policy{Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	out := filepath.Join(t.TempDir(), "ours."+opt.Format)
	if _, err := convert.Run(t.Context(), src, out, opt); err != nil {
		t.Fatal(err)
	}
	return out
}

// VMware's tool reads sparse images and writes streams.
func TestVMwareAgrees(t *testing.T) {
	for name, size := range sizes() {
		dir := t.TempDir()
		raw := content(t, dir, size)
		for _, variant := range []string{"monolithicSparse", "streamOptimized"} {
			t.Run(name+" "+variant, func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "vmware.vmdk")
				tool(t, "vmdk-convert", written(t, raw, convert.Options{Format: "vmdk", Variant: variant}), out)
				same(t, raw, out)
			})
		}
	}
}

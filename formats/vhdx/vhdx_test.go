package vhdx_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vhdx"
)

// content is a disk of 9 MiB and a bit, with holes, noise and text.
func content() []byte {
	b := make([]byte, 9<<20+4096)
	copy(b, strings.Repeat("begin ", 3000))
	for i := range 700 << 10 {
		b[4<<20+i] = byte(i * i >> 3)
	}
	copy(b[len(b)-600:], strings.Repeat("end ", 150))
	return b
}

// written makes an image with our writer.
func written(t testing.TB, opt vhdx.Options, data []byte) []byte {
	t.Helper()
	var out formatstest.Buffer
	w, err := vhdx.NewWriter(&out, int64(len(data)), opt)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(t, w, data)
	return out
}

func open(t *testing.T, b []byte) *vhdx.Image {
	t.Helper()
	img, err := vhdx.Open(formatstest.File("test.vhdx", b), nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestWhatWeWrite(t *testing.T) {
	data := content()
	for _, opt := range []vhdx.Options{{}, {Variant: "fixed"}, {Sector: 4096}, {Variant: "fixed", Sector: 4096}} {
		t.Run(fmt.Sprintf("%s %d", opt.Variant, opt.Sector), func(t *testing.T) {
			opt.Name = "disk.vhdx"
			b := written(t, opt, data)
			img := open(t, b)
			formatstest.Disk(t, img, bytes.NewReader(data))
			in := img.Info()
			if want := map[string]string{"": "dynamic"}[opt.Variant] + opt.Variant; in.Variant != want || len(in.Warnings) > 0 || in.Size != int64(len(data)) ||
				in.Sector != max(opt.Sector, 512) || in.ID == "" {
				t.Errorf("%+v", in)
			}
			if list := formatstest.Problems(t, img); len(list) > 0 {
				t.Errorf("problems: %+v", list)
			}
			if !bytes.Equal(b, written(t, opt, data)) {
				t.Error("the same disk gives other bytes")
			}
			if opt.Sector == 4096 {
				return // QEMU opens no such disk; VirtualBox does
			}
			dir := t.TempDir()
			path, raw := filepath.Join(dir, "x.vhdx"), filepath.Join(dir, "x.raw")
			if err := errors.Join(os.WriteFile(path, b, 0o600), os.WriteFile(raw, data, 0o600)); err != nil {
				t.Fatal(err)
			}
			formatstest.QemuImg(t, "check", "-f", "vhdx", path)
			formatstest.QemuImg(t, "compare", "-f", "vhdx", "-F", "raw", path, raw)
		})
	}
}

// What QEMU writes, in all block sizes.
func TestWhatQEMUWrites(t *testing.T) {
	dir := t.TempDir()
	raw, data := filepath.Join(dir, "x.raw"), content()
	if err := os.WriteFile(raw, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{
		"subformat=dynamic", "subformat=fixed", "block_size=1M", "block_size=2M,subformat=fixed", "block_size=4M", "block_size=32M",
		"block_size=256M", "block_size=1M,block_state_zero=off", "log_size=4M",
	} {
		path := filepath.Join(dir, "x.vhdx")
		formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vhdx", "-o", options, raw, path)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		img, err := vhdx.Open(formats.File{ReaderAt: f, Size: info.Size(), Name: options}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(options, func(t *testing.T) { formatstest.Disk(t, img, bytes.NewReader(data)) })
		for _, p := range formatstest.Problems(t, img) {
			t.Errorf("%s: %+v", options, p)
		}
		f.Close()
	}
}

// What others have written, and where they are known to be odd.
func TestSamples(t *testing.T) {
	for _, c := range []struct {
		name, variant string
		size          int64
		warns         string
		finds         []string
	}{
		// Four MiB after the first blocks are not used; QEMU, too, finds the log only.
		{"iotest-dirtylog-10G-4M.vhdx.bz2", "dynamic", 10 << 30, "log", []string{formats.BadMetadata, formats.Leak}},
		{"test-disk2vhd.vhdx.bz2", "dynamic", 256 << 20, "", nil}, // both headers have the sequence number 1
		{"ntfs-parent.vhdx.zst", "fixed", 4 << 20, "", nil},
		{"ntfs-differential.vhdx.zst", "differencing", 4 << 20, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := os.ReadFile(formatstest.Sample(t, "disks/"+c.name))
			if err != nil {
				t.Fatal(err)
			}
			img := open(t, b)
			in := img.Info()
			if all := strings.Join(in.Warnings, "; "); in.Variant != c.variant || in.Size != c.size || !strings.Contains(all, c.warns) || (c.warns == "") != (all == "") {
				t.Errorf("%+v", in)
			}
			formatstest.Disk(t, img, nil)
			var kinds []string
			for _, p := range formatstest.Problems(t, img) {
				kinds = append(kinds, p.Kind)
				if !p.Harmless {
					t.Errorf("%+v", p)
				}
			}
			if !slices.Equal(kinds, c.finds) {
				t.Errorf("problems %q, want %q", kinds, c.finds)
			}
		})
	}
}

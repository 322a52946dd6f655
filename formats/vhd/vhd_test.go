package vhd_test

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
	"hyper2kvm/formats/vhd"
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
func written(t testing.TB, opt vhd.Options, data []byte) []byte {
	t.Helper()
	var out formatstest.Buffer
	w, err := vhd.NewWriter(&out, int64(len(data)), opt)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(t, w, data)
	return out
}

func open(t *testing.T, b []byte) *vhd.Image {
	t.Helper()
	img, err := vhd.Open(formatstest.File("test.vhd", b), nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestWhatWeWrite(t *testing.T) {
	data := content()
	for _, variant := range []string{"dynamic", "fixed"} {
		t.Run(variant, func(t *testing.T) {
			b := written(t, vhd.Options{Variant: variant, Name: "disk.vhd"}, data)
			img := open(t, b)
			formatstest.Disk(t, img, bytes.NewReader(data))
			if i := img.Info(); i.Variant != variant || len(i.Warnings) > 0 || i.Size != int64(len(data)) {
				t.Errorf("%+v", i)
			}
			if list := formatstest.Problems(t, img); len(list) > 0 {
				t.Errorf("problems: %+v", list)
			}
			if !bytes.Equal(b, written(t, vhd.Options{Variant: variant, Name: "disk.vhd"}, data)) {
				t.Error("the same disk gives other bytes")
			}
			dir := t.TempDir()
			path, raw := filepath.Join(dir, "x.vhd"), filepath.Join(dir, "x.raw")
			if err := errors.Join(os.WriteFile(path, b, 0o600), os.WriteFile(raw, data, 0o600)); err != nil {
				t.Fatal(err)
			}
			formatstest.QemuImg(t, "compare", "-f", "vpc", "-F", "raw", path, raw)
			if info := formatstest.QemuImg(t, "info", path); !strings.Contains(info, fmt.Sprintf("(%d bytes)", len(data))) && variant == "dynamic" {
				t.Errorf("QEMU sees another size:\n%s", info)
			}
		})
	}
}

// What QEMU writes: its size goes by the geometry unless it is told otherwise.
func TestWhatQEMUWrites(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "x.raw")
	if err := os.WriteFile(raw, content(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{"subformat=dynamic", "subformat=fixed", "subformat=dynamic,force_size=on", "subformat=fixed,force_size=on"} {
		path, back := filepath.Join(dir, "x.vhd"), filepath.Join(dir, "back.raw")
		formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, path)
		formatstest.QemuImg(t, "convert", "-f", "vpc", "-O", "raw", path, back)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(back)
		if err != nil {
			t.Fatal(err)
		}
		img := open(t, b)
		if img.Size() != int64(len(want)) {
			t.Errorf("%s: %d bytes, QEMU sees %d", options, img.Size(), len(want))
		}
		formatstest.Disk(t, img, bytes.NewReader(want))
	}
}

// A size of 2 TiB costs its table only.
func TestHuge(t *testing.T) {
	var out formatstest.Buffer
	w, err := vhd.NewWriter(&out, 2040<<30, vhd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Place(1<<40, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	list, err := formatstest.Extents(open(t, out), 100)
	if err != nil || len(list) > 40 {
		t.Errorf("%d extents, %v", len(list), err)
	}
	if _, err := vhd.NewWriter(&out, 2040<<30+512, vhd.Options{}); !errors.Is(err, vhd.ErrOptions) {
		t.Errorf("more than 2040 GiB: %v", err)
	}
}

func TestDamage(t *testing.T) {
	good := written(t, vhd.Options{}, content())
	end := len(good) - 512
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		err    error
		warns  string
		finds  string // kind of problem
	}{
		{"footer cut off", func(b []byte) []byte { return b[:end] }, nil, "missing", formats.BadMetadata},
		{"footer damaged", func(b []byte) []byte { b[end+80]++; return b }, nil, "damaged", formats.BadMetadata},
		{"copy damaged", func(b []byte) []byte { b[80]++; return b }, nil, "", formats.BadMetadata},
		{"both damaged", func(b []byte) []byte { b[80]++; b[end+80]++; return b }, nil, "checksum", formats.BadMetadata},
		{"header's checksum", func(b []byte) []byte { b[512+800]++; return b }, nil, "checksum", ""},
		{"no header", func(b []byte) []byte { b[512] = 'x'; return b }, formats.ErrCorrupt, "", ""},
		{"blocks of no size", func(b []byte) []byte { clear(b[512+32 : 512+36]); return b }, formats.ErrCorrupt, "", ""},
		{"huge table", func(b []byte) []byte { b[512+28] = 0x40; return b }, formats.ErrCorrupt, "", ""},
		{"half of it", func(b []byte) []byte { return b[:len(b)/2] }, nil, "missing", formats.BadReference},
		{"two blocks in one place", func(b []byte) []byte { copy(b[1536:1540], b[1544:1548]); return b }, nil, "", formats.Overlap},
		{"lost block", func(b []byte) []byte { copy(b[1536:1540], "\xff\xff\xff\xff"); return b }, nil, "", formats.Leak},
		{"not a VHD", func(b []byte) []byte { return b[:400] }, formats.ErrFormat, "", ""},
		{"no footer at all", func(b []byte) []byte { return b[4096:end] }, formats.ErrFormat, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.change(bytes.Clone(good))
			img, err := vhd.Open(formatstest.File("damaged.vhd", b), nil)
			if !errors.Is(err, c.err) {
				t.Fatalf("opened with %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if all := strings.Join(img.Info().Warnings, "; "); !strings.Contains(all, c.warns) || (c.warns == "") != (all == "") {
				t.Errorf("warnings %q, want %q", all, c.warns)
			}
			found := formatstest.Problems(t, img)
			if c.finds == "" != (len(found) == 0) || c.finds != "" && !slices.ContainsFunc(found, func(p formats.Problem) bool { return p.Kind == c.finds }) {
				t.Errorf("problems %+v, want %q", found, c.finds)
			}
			for _, p := range found {
				for _, patch := range p.Patches {
					copy(b[patch.Offset:], patch.Bytes)
					if again := formatstest.Problems(t, open(t, b)); len(again) > 0 {
						t.Errorf("after the repair: %+v", again)
					}
				}
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	text := []byte(strings.Repeat("text", 300))
	f.Add(written(f, vhd.Options{Variant: "fixed"}, text))
	dynamic := written(f, vhd.Options{}, text)
	f.Add(append(bytes.Clone(dynamic[:8192]), dynamic[len(dynamic)-512:]...))
	diff := bytes.Clone(dynamic[:8192])
	diff[63] = 4
	copy(diff[512+576:], "W2ru\x00\x00\x02\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00")
	f.Add(diff)
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := vhd.Open(formatstest.File("fuzz", b), nil)
		if err != nil {
			return
		}
		if err := formatstest.Every(img, 1<<20); errors.Is(err, formatstest.ErrBroken) {
			t.Fatal(err)
		}
		n := 0
		_ = img.Check(t.Context(), func(formats.Problem) error {
			if n++; n > 1000 {
				return errors.New("enough")
			}
			return nil
		})
	})
}

// What others have written, and where they are known to be odd.
func TestSamples(t *testing.T) {
	for _, c := range []struct {
		name, variant string
		size          int64
		warns         string
		err           error
	}{
		{"virtualpc-dynamic.vhd.bz2", "dynamic", 136363130880, "", nil}, // by its geometry, as its creator meant it
		{"plaso-image.vhd.zst", "dynamic", 104448, "", nil},             // its checksums are right; it has no UUID
		{"ntfs-parent.vhd.zst", "fixed", 4 << 20, "", nil},
		{"ntfs-differential.vhd.zst", "differencing", 4 << 20, "", nil},
		{"afl5.img.bz2", "", 0, "", formats.ErrTruncated}, // ends in its header, which announces a table of absurd size
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := os.ReadFile(formatstest.Sample(t, "disks/"+c.name))
			if err != nil {
				t.Fatal(err)
			}
			img, err := vhd.Open(formatstest.File(c.name, b), nil)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			in := img.Info()
			if all := strings.Join(in.Warnings, "; "); in.Variant != c.variant || in.Size != c.size || !strings.Contains(all, c.warns) || (c.warns == "") != (all == "") {
				t.Errorf("%+v", in)
			}
			formatstest.Disk(t, img, nil)
		})
	}
}

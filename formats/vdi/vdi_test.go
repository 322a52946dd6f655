package vdi_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vdi"
)

// content is a disk of 9 MiB and a bit, with holes, noise and text.
func content() []byte {
	b := make([]byte, 9<<20+4096)
	copy(b, strings.Repeat("begin ", 3000))
	for i := range 2700 << 10 {
		b[4<<20+i] = byte(i * i >> 3)
	}
	copy(b[len(b)-600:], strings.Repeat("end ", 150))
	return b
}

// written makes an image with our writer.
func written(t testing.TB, opt vdi.Options, data []byte) []byte {
	t.Helper()
	var out formatstest.Buffer
	w, err := vdi.NewWriter(&out, int64(len(data)), opt)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(t, w, data)
	return out
}

func open(t *testing.T, b []byte) *vdi.Image {
	t.Helper()
	img, err := vdi.Open(formatstest.File("test.vdi", b), nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestWhatWeWrite(t *testing.T) {
	data := content()
	for _, variant := range []string{"dynamic", "fixed"} {
		t.Run(variant, func(t *testing.T) {
			opt := vdi.Options{Variant: variant, Name: "disk.vdi"}
			b := written(t, opt, data)
			img := open(t, b)
			formatstest.Disk(t, img, bytes.NewReader(data))
			if i := img.Info(); i.Variant != variant || len(i.Warnings) > 0 || i.Size != int64(len(data)) || i.ID == i.ContentID {
				t.Errorf("%+v", i)
			}
			if list := formatstest.Problems(t, img); len(list) > 0 {
				t.Errorf("problems: %+v", list)
			}
			if !bytes.Equal(b, written(t, opt, data)) {
				t.Error("the same disk gives other bytes")
			}
			dir := t.TempDir()
			path, raw := filepath.Join(dir, "x.vdi"), filepath.Join(dir, "x.raw")
			if err := errors.Join(os.WriteFile(path, b, 0o600), os.WriteFile(raw, data, 0o600)); err != nil {
				t.Fatal(err)
			}
			formatstest.QemuImg(t, "check", "-q", path)
			formatstest.QemuImg(t, "compare", "-f", "vdi", "-F", "raw", path, raw)
			if info := formatstest.QemuImg(t, "info", path); !strings.Contains(info, fmt.Sprintf("(%d bytes)", len(data))) {
				t.Errorf("QEMU sees another size:\n%s", info)
			}
		})
	}
}

func TestWhatQEMUWrites(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "x.raw")
	if err := os.WriteFile(raw, content(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{"static=off", "static=on"} {
		path := filepath.Join(dir, "x.vdi")
		formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vdi", "-o", options, raw, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		img := open(t, b)
		formatstest.Disk(t, img, bytes.NewReader(content()))
		if list := formatstest.Problems(t, img); len(list) > 0 {
			t.Errorf("%s: %+v", options, list)
		}
	}
}

// What VirtualBox writes, a disk that its own tools also gave as raw.
func TestWhatVirtualBoxWrites(t *testing.T) {
	b, err := os.ReadFile(formatstest.Sample(t, "disks/vbox-dyn.vdi.zst"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(formatstest.Sample(t, "disks/vbox-content.raw.xz"))
	if err != nil {
		t.Fatal(err)
	}
	img := open(t, b)
	formatstest.Disk(t, img, bytes.NewReader(want))
	if list := formatstest.Problems(t, img); len(list) > 0 {
		t.Errorf("%+v", list)
	}
}

// differencing turns an image that stands alone into a child.
func differencing(b []byte) []byte {
	b = bytes.Clone(b)
	b[76] = 4
	for i := range 16 {
		b[424+i], b[440+i] = byte(i), byte(0x80+i)
	}
	return b
}

func TestDifferencing(t *testing.T) {
	data := content()
	b := differencing(written(t, vdi.Options{}, data))
	at := 512 + 4*2 // the map's entry of a block that the child does not have
	copy(b[at:], "\xfe\xff\xff\xff")
	img := open(t, b)
	p := img.Info().Parent
	if p == nil || p.Name != "" || p.ID != "03020100-0504-0706-0809-0a0b0c0d0e0f" || p.ContentID != "83828180-8584-8786-8889-8a8b8c8d8e8f" {
		t.Fatalf("parent %+v", p)
	}
	for off, want := range map[int64]formats.Kind{0: formats.Data, 1 << 20: formats.Absent, 2 << 20: formats.Zero, 3 << 20: formats.Absent, 4 << 20: formats.Data} {
		if e, err := img.Extent(off, 1<<20); err != nil || e.Kind != want || e.Length != 1<<20 {
			t.Errorf("at %d: %+v, %v; want %s", off, e, err, want)
		}
	}
	if _, err := img.ReadAt(make([]byte, 512), 1<<20); !errors.Is(err, formats.ErrAbsent) {
		t.Errorf("read what the parent has: %v", err)
	}
}

// A disk of 512 TiB costs no memory, and a map that is written part by part.
func TestHuge(t *testing.T) {
	var out counter
	w, err := vdi.NewWriter(&out, 1<<40, vdi.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Place(1<<39, 4096); err != nil {
		t.Fatal(err)
	}
	size, err := w.Finish()
	if err != nil || size != 6<<20 || out.most > 16<<10 || out.all > 5<<20 {
		t.Errorf("%d bytes, %d written in pieces of up to %d, %v", size, out.all, out.most, err)
	}
	if _, err := vdi.NewWriter(&out, 512<<40, vdi.Options{}); !errors.Is(err, vdi.ErrOptions) {
		t.Errorf("more than QEMU reads: %v", err)
	}
}

type counter struct{ most, all int }

func (c *counter) WriteAt(p []byte, _ int64) (int, error) {
	c.most, c.all = max(c.most, len(p)), c.all+len(p)
	return len(p), nil
}

func TestDamage(t *testing.T) {
	good := written(t, vdi.Options{}, content())
	put := func(at int, v uint32) func(b []byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		err    error
		finds  string // kind of problem
		mended bool
	}{
		{"not a VDI", put(64, 1), formats.ErrFormat, "", false},
		{"old version", put(68, 0x00000001), formats.ErrUnsupported, "", false},
		{"header cut off", func(b []byte) []byte { return b[:300] }, formats.ErrTruncated, "", false},
		{"short header", put(72, 100), formats.ErrCorrupt, "", false},
		{"undo image", put(76, 3), formats.ErrUnsupported, "", false},
		{"map in the header", put(340, 80), formats.ErrCorrupt, "", false},
		{"map behind the end", put(340, 1<<30), formats.ErrTruncated, "", false},
		{"blocks of no size", put(376, 0), formats.ErrCorrupt, "", false},
		{"blocks of odd size", put(376, 3<<19), formats.ErrCorrupt, "", false},
		{"huge room between blocks", put(380, 1<<30), formats.ErrCorrupt, "", false},
		{"too few blocks", put(384, 3), formats.ErrCorrupt, "", false},
		{"absurd size", put(372, 1<<31), formats.ErrCorrupt, "", false},
		{"half of it", func(b []byte) []byte { return b[:len(b)/2] }, nil, formats.BadReference, false},
		{"block behind the end", put(512, 1<<31), nil, formats.BadReference, false},
		{"two blocks in one place", put(516, 0), nil, formats.Overlap, false},
		{"lost block", put(512, 0xFFFFFFFF), nil, formats.Leak, false},
		{"count too low", put(388, 1), nil, formats.BadMetadata, true},
		{"count too high", put(388, 100), nil, formats.BadMetadata, false},
		{"blocks over the map", put(344, 512), nil, formats.Overlap, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.change(bytes.Clone(good))
			img, err := vdi.Open(formatstest.File("damaged.vdi", b), nil)
			if !errors.Is(err, c.err) {
				t.Fatalf("opened with %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			found := formatstest.Problems(t, img)
			if !slices.ContainsFunc(found, func(p formats.Problem) bool { return p.Kind == c.finds }) {
				t.Errorf("problems %+v, want %q", found, c.finds)
			}
			mended := false
			for _, p := range found {
				for _, patch := range p.Patches {
					copy(b[patch.Offset:], patch.Bytes)
					mended = len(formatstest.Problems(t, open(t, b))) == 0
				}
			}
			if mended != c.mended {
				t.Errorf("mended: %v", mended)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	small := written(f, vdi.Options{}, []byte(strings.Repeat("text", 300)))
	for _, b := range [][]byte{small[:1024], differencing(small[:1024])} {
		binary.LittleEndian.PutUint32(b[344:], 516) // the block follows the map
		binary.LittleEndian.PutUint32(b[376:], 512)
		binary.LittleEndian.PutUint32(b[384:], 3)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := vdi.Open(formatstest.File("fuzz", b), nil)
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

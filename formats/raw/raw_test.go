package raw_test

import (
	"bytes"
	"errors"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/raw"
)

// holed is a file whose bytes 1000 to 5000 are a hole.
type holed struct{ *bytes.Reader }

func (h holed) NextData(off int64) (data, hole int64, err error) {
	switch size := h.Size(); {
	case off < 1000:
		return off, 1000, nil
	case off < 5000:
		return 5000, size, nil
	case off >= size:
		return size, size, nil
	default:
		return off, size, nil
	}
}

func content() []byte {
	b := bytes.Repeat([]byte("abc"), 3333)
	clear(b[1000:5000])
	return b
}

func file(b []byte) formats.File {
	return formats.File{ReaderAt: holed{bytes.NewReader(b)}, Size: int64(len(b)), Name: "test"}
}

func TestDisk(t *testing.T) {
	b := content()
	formatstest.Disk(t, raw.New(file(b)), bytes.NewReader(b))
	formatstest.Disk(t, raw.New(formats.File{ReaderAt: bytes.NewReader(b), Size: int64(len(b))}), bytes.NewReader(b))
	formatstest.Disk(t, raw.New(file(nil)), nil)
	section, err := raw.Section(file(b), 512, 8000)
	if err != nil {
		t.Fatal(err)
	}
	formatstest.Disk(t, section, bytes.NewReader(b[512:8512]))
	if e, err := section.Extent(600, 9999); err != nil || e.Kind != formats.Zero || e.Length != 5000-512-600 {
		t.Errorf("hole in a section: %+v, %v", e, err)
	}
}

func TestSectionOutside(t *testing.T) {
	f := file(content())
	for _, c := range [][2]int64{{0, 10_000}, {9999, 1}, {-1, 5}, {5, -1}, {1 << 62, 1 << 62}} {
		if _, err := raw.Section(f, c[0], c[1]); !errors.Is(err, formats.ErrTruncated) {
			t.Errorf("%d bytes at %d: %v", c[1], c[0], err)
		}
	}
}

// A file that shrinks while it is read is an error, not an early end.
func TestShrunk(t *testing.T) {
	f := file(content())
	f.Size += 1000
	if n, err := raw.New(f).ReadAt(make([]byte, 600), 9700); !errors.Is(err, formats.ErrTruncated) {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
}

// Any place and length: an error or a disk that keeps the contract.
func FuzzSection(f *testing.F) {
	f.Add(int64(0), int64(9999))
	f.Add(int64(999), int64(2))
	f.Add(int64(-1), int64(1<<62))
	f.Fuzz(func(t *testing.T, start, length int64) {
		d, err := raw.Section(file(content()), start, length)
		if err != nil {
			return
		}
		if err := formatstest.Every(d, 1<<20); err != nil {
			t.Error(err)
		}
	})
}

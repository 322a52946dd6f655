package vmdk_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vmdk"
)

// writerAt is a file in memory to write to.
type writerAt []byte

func (w *writerAt) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(*w) {
		*w = append(*w, make([]byte, end-len(*w))...)
	}
	return copy((*w)[off:], p), nil
}

// small writes a disk of four grains, the second and last of them used.
func small(t testing.TB, variant string) []byte {
	t.Helper()
	const grain = 4096
	var out writerAt
	w, err := vmdk.NewWriter(&out, 4*grain, vmdk.Options{Variant: variant, GrainSize: grain})
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	for _, guest := range []int64{grain, 3 * grain} {
		data := []byte(strings.Repeat("grain", grain))[:grain]
		var host int64
		if p != nil {
			if data, err = p.Pack(nil, guest, data); err != nil {
				t.Fatal(err)
			}
			host, err = w.PlacePacked(guest, len(data))
		} else {
			host, _, err = w.Place(guest, grain)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.WriteAt(data, host); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	return out
}

// repaired checks an image and mends a copy of it, which must be the same disk.
func repaired(t *testing.T, img *vmdk.Image, b []byte) error {
	fixed, n := bytes.Clone(b), 0
	err := img.Check(t.Context(), func(p formats.Problem) error {
		for _, x := range p.Patches {
			if x.Offset < 0 || x.Offset+int64(len(x.Bytes)) > int64(len(b)) {
				t.Fatalf("a patch outside of the file: %+v", p)
			}
			copy(fixed[x.Offset:], x.Bytes)
		}
		if n++; n > 1000 {
			return errors.New("enough")
		}
		return nil
	})
	if err != nil || bytes.Equal(fixed, b) {
		return nil
	}
	after, err := vmdk.Open(formatstest.File("fuzz", fixed), nil)
	if err != nil {
		return err
	}
	return formatstest.Same(img, after, 1<<20)
}

// blank is a header without capacity, grain or descriptor, but with the size
// of a descriptor.
func blank() []byte {
	b := make([]byte, 512)
	copy(b, "KDMV\x01")
	b[36] = 1
	return b
}

// Whatever the bytes: an error, or a disk that keeps the contract, soon.
func FuzzOpen(f *testing.F) {
	sparse := small(f, "monolithicSparse")
	stream := small(f, "streamOptimized")
	f.Add(sparse)
	f.Add(stream)
	f.Add(sparse[:len(sparse)-4096])
	f.Add([]byte("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=2\nRW 8 FLAT \"x\" 0\nRW 1 ZERO\nRW 4 SPARSE \"x\"\n"))
	f.Add(blank())
	f.Fuzz(func(t *testing.T, b []byte) {
		open := func(string) (formats.File, error) { return formatstest.File("x", b), nil }
		img, err := vmdk.Open(formatstest.File("fuzz", b), open)
		if err != nil {
			if img != nil {
				t.Fatalf("an image and an error: %v", err)
			}
			return
		}
		if err := formatstest.Every(img, 1<<20); errors.Is(err, formatstest.ErrBroken) {
			t.Fatal(err)
		}
		if err := repaired(t, img, b); err != nil {
			t.Fatal(err)
		}
		if img.Info().Parent == nil {
			if list, _ := formatstest.Extents(img, 100); len(list) > 0 && list[0].Kind == formats.Absent {
				t.Fatal("absent without a parent")
			}
		}
	})
}

// Whatever the bytes of an extent: an error, or a disk that keeps the contract.
func FuzzExtent(f *testing.F) {
	d := delta{1: []byte("data"), 2: nil}
	f.Add(seSparse(5*4096, d, 0), uint32(39), true)
	f.Add(seSparse(5*4096, d, 1), uint32(40), false)
	f.Add(cowd(5*512, d), uint32(5), true)
	f.Add(small(f, "monolithicSparse"), uint32(32), false)
	f.Fuzz(func(t *testing.T, b []byte, sectors uint32, child bool) {
		parent := "ffffffff"
		if child {
			parent = "1"
		}
		text := fmt.Appendf(nil, "version=1\nparentCID=%s\nRW %d SPARSE \"x\"\n", parent, sectors)
		img, err := vmdk.Open(formatstest.File("fuzz", text), func(string) (formats.File, error) { return formatstest.File("x", b), nil })
		if err != nil {
			return
		}
		if err := formatstest.Every(img, 1<<20); errors.Is(err, formatstest.ErrBroken) {
			t.Fatal(err)
		}
		if err := repaired(t, img, b); err != nil {
			t.Fatal(err)
		}
	})
}

// The seeds of the fuzzer are images that open.
func TestSmall(t *testing.T) {
	for _, variant := range []string{"monolithicSparse", "streamOptimized"} {
		img, err := vmdk.Open(formatstest.File(variant, small(t, variant)), nil)
		if err != nil {
			t.Fatal(err)
		}
		grain := strings.Repeat("grain", 4096)[:4096]
		want := strings.Repeat("\x00", 4096) + grain + strings.Repeat("\x00", 4096) + grain
		formatstest.Disk(t, img, strings.NewReader(want))
		list, err := formatstest.Extents(img, 10)
		if err != nil || len(list) != 4 || list[0].Kind != formats.Zero || list[3].Kind != formats.Data {
			t.Errorf("extents %+v, %v", list, err)
		}
	}
}

package vmdk_test

import (
	"errors"
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
	f.Add(append([]byte("COWD\x01\x00\x00\x00\x03\x00\x00\x00\x10\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00"), make([]byte, 30<<10)...))
	f.Add(blank())
	f.Fuzz(func(t *testing.T, b []byte) {
		open := func(string) (formats.File, error) { return memory("x", b), nil }
		img, err := vmdk.Open(memory("fuzz", b), open)
		if err != nil {
			if img != nil {
				t.Fatalf("an image and an error: %v", err)
			}
			return
		}
		if err := formatstest.Every(img, 1<<20); errors.Is(err, formatstest.ErrBroken) {
			t.Fatal(err)
		}
		if img.Info().Parent == nil {
			if list, _ := formatstest.Extents(img, 100); len(list) > 0 && list[0].Kind == formats.Absent {
				t.Fatal("absent without a parent")
			}
		}
	})
}

// The seeds of the fuzzer are images that open.
func TestSmall(t *testing.T) {
	for _, variant := range []string{"monolithicSparse", "streamOptimized"} {
		img, err := vmdk.Open(memory(variant, small(t, variant)), nil)
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

package qcow2_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/qcow2"
)

// writerAt is a file in memory to write to.
type writerAt []byte

func (w *writerAt) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(*w) {
		*w = append(*w, make([]byte, end-len(*w))...)
	}
	return copy((*w)[off:], p), nil
}

// small writes an image of six clusters of which the second and fifth are used.
func small(t testing.TB, opt qcow2.Options) []byte {
	t.Helper()
	var out writerAt
	w, err := qcow2.NewWriter(&out, 6*opt.ClusterSize, opt)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int64{1, 4} {
		data := []byte(strings.Repeat("cluster ", int(opt.ClusterSize)))[:opt.ClusterSize]
		guest := i * opt.ClusterSize
		var host int64
		if p != nil {
			if data, err = p.Pack(nil, guest, data); err != nil {
				t.Fatal(err)
			}
			host, err = w.PlacePacked(guest, len(data))
		} else {
			host, _, err = w.Place(guest, opt.ClusterSize)
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

// subclustered is an image with extended L2 entries, of which one is used.
func subclustered(t testing.TB) []byte {
	b := small(t, qcow2.Options{ClusterSize: 16 << 10})
	b[79] |= 1 << 4
	d := damage{b, 16 << 10}
	d.put(d.l2(), d.word(d.l2()+8))
	d.put(d.l2()+8, 0xf0<<32|0xf)
	return b
}

// Whatever the bytes: an error, or a disk that keeps the contract, soon.
func FuzzOpen(f *testing.F) {
	for _, opt := range []qcow2.Options{{ClusterSize: 512}, {ClusterSize: 1024, Compression: "zlib"}, {ClusterSize: 2048, Compression: "zstd"}} {
		f.Add(small(f, opt))
	}
	f.Add(subclustered(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		open := func(string) (formats.File, error) { return formatstest.File("x", b), nil }
		img, err := qcow2.Open(formatstest.File("fuzz", b), open)
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
	})
}

// repaired checks an image and mends a copy of it, which must be the same disk.
func repaired(t *testing.T, img *qcow2.Image, b []byte) error {
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
	open := func(string) (formats.File, error) { return formatstest.File("x", b), nil }
	after, err := qcow2.Open(formatstest.File("fuzz", fixed), open)
	if err != nil {
		return err
	}
	return formatstest.Same(img, after, 1<<20)
}

// The seeds of the fuzzer are images that open.
func TestSmall(t *testing.T) {
	img, err := qcow2.Open(formatstest.File("x", subclustered(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := formatstest.Extents(img, 9)
	if err != nil || len(list) != 2 || list[0].Kind != formats.Data || list[0].Length != 2048 || list[1].Kind != formats.Zero {
		t.Errorf("extents %+v, %v", list, err)
	}
	for _, opt := range []qcow2.Options{{ClusterSize: 512}, {ClusterSize: 4096, Compression: "zlib"}, {ClusterSize: 2 << 20, Compression: "zstd"}} {
		img, err := qcow2.Open(formatstest.File("small", small(t, opt)), nil)
		if err != nil {
			t.Fatal(err)
		}
		zero := strings.Repeat("\x00", int(opt.ClusterSize))
		data := strings.Repeat("cluster ", int(opt.ClusterSize))[:opt.ClusterSize]
		formatstest.Disk(t, img, strings.NewReader(zero+data+zero+zero+data+zero))
	}
}

func TestImpossibleOptions(t *testing.T) {
	for _, c := range []struct {
		size int64
		opt  qcow2.Options
	}{
		{1 << 20, qcow2.Options{ClusterSize: 1000}},
		{1 << 20, qcow2.Options{ClusterSize: 4 << 20}},
		{1 << 20, qcow2.Options{Compression: "lzma"}},
		{1 << 40, qcow2.Options{ClusterSize: 512}}, // L1 larger than QEMU takes
		{-1, qcow2.Options{}},
	} {
		if _, err := qcow2.NewWriter(&writerAt{}, c.size, c.opt); !errors.Is(err, qcow2.ErrOptions) {
			t.Errorf("%d bytes, %+v: %v", c.size, c.opt, err)
		}
	}
}

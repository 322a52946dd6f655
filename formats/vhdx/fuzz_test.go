package vhdx_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vhdx"
)

// piece is a part of an image that matters to a parser: an image has four MiB and
// more, nearly all of them zeroes.
type piece struct{ at, length int64 }

func pieces() []piece {
	return []piece{
		{64 << 10, 80}, {128 << 10, 80}, {192 << 10, 112}, {256 << 10, 112},
		{logAt, 4 * 4096}, {logAt + logLength - 4096, 4096},
		{metadataAt, 256}, {itemsAt, 256}, {itemsAt + 1024, 512},
		{batAt, 64}, {batAt + 2048*8 - 8, 16}, {dataAt, 1024},
	}
}

// pack takes the pieces of an image.
func pack(b []byte) []byte {
	var out []byte
	for _, p := range pieces() {
		out = append(out, b[p.at:p.at+p.length]...)
	}
	return out
}

// unpack makes an image of pieces, and signs what has a checksum, so that what is
// wrong is found by more than that.
func unpack(b []byte) formats.File {
	const size = 10 << 20
	m := formatstest.NewMemory(size)
	put := func(p []byte, at int64) {
		if _, err := m.WriteAt(p, at); err != nil {
			panic(err)
		}
	}
	put([]byte("vhdxfile"), 0)
	for _, p := range pieces() {
		n := min(int64(len(b)), p.length)
		put(b[:n], p.at)
		b = b[n:]
	}
	for _, p := range []piece{{64 << 10, 4096}, {128 << 10, 4096}, {192 << 10, 64 << 10}, {256 << 10, 64 << 10}} {
		signAt(m, []piece{p})
	}
	head := make([]byte, 12)
	for _, at := range []int64{0, 4096, 8192, 12288, logLength - 4096} {
		if _, err := m.ReadAt(head, logAt+at); err != nil {
			panic(err)
		}
		switch n := int64(binary.LittleEndian.Uint32(head[8:])); {
		case string(head[:4]) != "loge" || n > 4*4096 || n < 64:
		case at+n > logLength:
			signAt(m, []piece{{logAt + at, logLength - at}, {logAt, n - (logLength - at)}})
		default:
			signAt(m, []piece{{logAt + at, n}})
		}
	}
	return formats.File{ReaderAt: m.Ready(), Size: size, Name: "fuzz"}
}

// signAt writes the checksum of what lies in parts into the first one.
func signAt(m *formatstest.Memory, parts []piece) {
	var all []byte
	for _, p := range parts {
		b := make([]byte, p.length)
		if _, err := m.ReadAt(b, p.at); err != nil {
			panic(err)
		}
		all = append(all, b...)
	}
	put32(all, 4, 0)
	sum := binary.LittleEndian.AppendUint32(nil, crc32.Checksum(all, crc32.MakeTable(crc32.Castagnoli)))
	if _, err := m.WriteAt(sum, parts[0].at+4); err != nil {
		panic(err)
	}
}

func FuzzOpen(f *testing.F) {
	text := []byte(strings.Repeat("text", 300))
	loc := locator("parent_linkage", linkage, "relative_path", `.\base.vhdx`, "parent_linkage2", linkage)
	for _, opt := range []vhdx.Options{{}, {Variant: "fixed"}, {Sector: 4096}} {
		b := written(f, opt, text)
		f.Add(pack(b))
		f.Add(pack(child(bytes.Clone(b), 512, loc, odd)))
	}
	b := dirty(written(f, vhdx.Options{}, text))
	next := logged{at: logLength - 4096, tail: logLength - 4096, sequence: 7, updates: []update{{off: dataAt, data: filled(1)}}}.write(b)
	logged{at: next, tail: logLength - 4096, sequence: 8, last: 9 << 20, updates: []update{{off: dataAt + 4096, n: 8192}, {off: batAt, data: b[batAt:][:4096]}}}.write(b)
	f.Add(pack(b))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := vhdx.Open(unpack(b), nil)
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

// The seeds are what they are meant to be: images that open.
func TestPieces(t *testing.T) {
	b := written(t, vhdx.Options{}, []byte(strings.Repeat("text", 300)))
	img, err := vhdx.Open(unpack(pack(b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1024)
	if _, err := img.ReadAt(got, 0); err != nil || !bytes.HasPrefix(got, []byte("texttext")) {
		t.Errorf("%q, %v", got[:8], err)
	}
	for _, seed := range [][]byte{dirty(b), child(bytes.Clone(b), 512, locator("parent_linkage", linkage), odd)} {
		if seed[headerAt+48] != 0 {
			logged{sequence: 7, updates: []update{{off: dataAt, n: 4096}}}.write(seed)
		}
		if _, err := vhdx.Open(unpack(pack(seed)), nil); err != nil {
			t.Error(err)
		}
	}
}

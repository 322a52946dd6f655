package inflate_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"hash/adler32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	kflate "github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zlib"

	"hyper2kvm/formats/inflate"
)

// samples are of the kinds that disks hold.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 70_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	few := make([]byte, 70_000)
	for i := range few {
		few[i] = byte(r.ExpFloat64() * 20)
	}
	return map[string][]byte{
		"nothing": {}, "one byte": {7}, "zeroes": make([]byte, 65536), "noise": noise, "few": few,
		"text":    []byte(strings.Repeat("a quick brown fox, and then another one; ", 3000)),
		"pattern": bytes.Repeat([]byte{1, 2, 3}, 30_000), "all values": bytes.Repeat(few[:5000], 9),
		"short distances": bytes.Repeat([]byte{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, 500),
	}
}

// deflate compresses at every level of two libraries.
func deflate(t testing.TB, data []byte) [][]byte {
	t.Helper()
	var out [][]byte
	for level := -2; level <= 9; level++ {
		var a, b bytes.Buffer
		x, err := flate.NewWriter(&a, level)
		if err != nil {
			t.Fatal(err)
		}
		y, err := kflate.NewWriter(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []io.WriteCloser{x, y} {
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, a.Bytes(), b.Bytes())
	}
	return out
}

func TestInto(t *testing.T) {
	d := inflate.New()
	for name, data := range samples() {
		for i, packed := range deflate(t, data) {
			got := bytes.Repeat([]byte{0xA5}, len(data)+32)
			// Nothing is written behind dst, not even for a moment.
			if err := d.Into(got[:len(data):len(data)], packed); err != nil {
				t.Fatalf("%s, %d: %v", name, i, err)
			}
			if !bytes.Equal(got[:len(data)], data) {
				t.Fatalf("%s, %d: other bytes", name, i)
			}
			// What is behind the stream does not matter, and half of it can be asked for.
			more := append(bytes.Clone(packed), "something else behind it"...)
			for _, n := range []int{len(data) / 2, len(data)} {
				clear(got)
				if err := d.Into(got[:n], more); err != nil || !bytes.Equal(got[:n], data[:n]) {
					t.Fatalf("%s, %d: the first %d bytes: %v", name, i, n, err)
				}
			}
			if err := d.Into(got[:len(data)+1], packed); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, %d: one byte more than there is: %v", name, i, err)
			}
		}
	}
}

// A stream that is cut off is an error wherever it ends.
func TestCut(t *testing.T) {
	d := inflate.New()
	data := samples()["few"][:3000]
	for _, packed := range deflate(t, data) {
		got := make([]byte, len(data))
		for n := range len(packed) - 5 {
			if err := d.Into(got, packed[:n]); err == nil {
				t.Fatalf("%d of %d bytes: no error", n, len(packed))
			}
		}
	}
}

func TestZlib(t *testing.T) {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write([]byte("some data")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d, got := inflate.New(), make([]byte, 9)
	if whole, err := d.Zlib(got, b.Bytes()); err != nil || !whole || string(got) != "some data" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := d.Zlib(got, b.Bytes()[:1]); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: %v", err)
	}
	for _, c := range []struct {
		at   int
		bits byte
		want error
	}{{0, 1, inflate.ErrData}, {1, 0x20, inflate.ErrData}, {b.Len() - 1, 1, inflate.ErrChecksum}} {
		bad := bytes.Clone(b.Bytes())
		bad[c.at] ^= c.bits
		if _, err := d.Zlib(got, bad); !errors.Is(err, c.want) {
			t.Errorf("byte %d changed: %v", c.at, err)
		}
		// What is only asked for in part has no checksum.
		if whole, err := d.Zlib(got[:5], bad); errors.Is(c.want, inflate.ErrChecksum) && (whole || err != nil) {
			t.Errorf("a part: %v", err)
		}
	}
	if _, err := d.Zlib(got, b.Bytes()[:b.Len()-1]); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut checksum: %v", err)
	}
}

// Whatever blocks a stream ends in, its checksum is found and compared.
func TestZlibChecksum(t *testing.T) {
	d := inflate.New()
	for name, data := range samples() {
		for i, packed := range deflate(t, data) {
			sum := binary.BigEndian.AppendUint32(nil, adler32.Checksum(data))
			stream := append(append([]byte{0x78, 0x9c}, packed...), sum...)
			got := make([]byte, len(data))
			if whole, err := d.Zlib(got, stream); err != nil || !whole || !bytes.Equal(got, data) {
				t.Fatalf("%s, %d: %v", name, i, err)
			}
			stream[len(stream)-1] ^= 1
			if _, err := d.Zlib(got, stream); !errors.Is(err, inflate.ErrChecksum) {
				t.Fatalf("%s, %d: wrong checksum: %v", name, i, err)
			}
		}
	}
}

// It takes and refuses what the library of Go does, and gives the same bytes.
func FuzzInto(f *testing.F) {
	for _, data := range samples() {
		for _, packed := range deflate(f, data[:min(len(data), 2000)]) {
			f.Add(packed, uint16(min(len(data), 2000)))
		}
	}
	f.Add([]byte{0x05, 0xc0, 0x81, 0, 0, 0, 0, 0, 0x10, 0xff, 0x55, 0x2d}, uint16(1)) // one distance
	d := inflate.New()
	f.Fuzz(func(t *testing.T, packed []byte, n uint16) {
		want, got := make([]byte, n), make([]byte, n)
		_, wantErr := io.ReadFull(flate.NewReader(bytes.NewReader(packed)), want)
		err := d.Into(got, packed)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, the library says %v", err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatal("other bytes than the library's")
		}
	})
}

func BenchmarkInto(b *testing.B) {
	for _, name := range []string{"text", "few", "noise"} {
		data := samples()[name][:65536]
		packed := deflate(b, data)[17]
		got := make([]byte, len(data))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			d := inflate.New()
			for b.Loop() {
				if err := d.Into(got, packed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package vhdx_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/guid"
	"hyper2kvm/formats/qcow2"
	"hyper2kvm/formats/vhdx"
)

const (
	logAt, logLength = 1 << 20, 1 << 20
	batAt            = 3 << 20
	dataAt           = 4 << 20 // of small disks that we write
)

func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
func put64(b []byte, at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }

// sign writes the CRC-32C of a header, a region table or a log entry into it.
func sign(b []byte) {
	put32(b, 4, 0)
	put32(b, 4, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// signHeader signs the second header, which is the current one.
func signHeader(b []byte) { sign(b[128<<10 : 132<<10]) }

var logID = uuid.MustParse("c82755bc-427f-1245-b72c-da70aaabe031")

// dirty makes the log of an image count.
func dirty(b []byte) []byte {
	copy(b[128<<10+48:], guid.Bytes(logID))
	signHeader(b)
	return b
}

// update is what a log entry writes: data of 4 KiB, or n zeroes.
type update struct {
	off  int64
	data []byte
	n    int64
}

// logged is a log entry.
type logged struct {
	at, tail      int
	sequence      uint64
	flushed, last int64
	updates       []update
	change        func(b []byte) // after it is signed
}

// write puts the entry into an image, and returns where the next one goes.
func (e logged) write(b []byte) int {
	sectors := (64 + 32*len(e.updates) + 4095) / 4096
	entry := make([]byte, sectors*4096)
	copy(entry, "loge")
	put32(entry, 12, uint32(e.tail))
	put64(entry, 16, e.sequence)
	put32(entry, 24, uint32(len(e.updates)))
	copy(entry[32:], guid.Bytes(logID))
	put64(entry, 48, uint64(e.flushed))
	put64(entry, 56, uint64(e.last))
	for i, u := range e.updates {
		d := entry[64+32*i:]
		put64(d, 16, uint64(u.off))
		put64(d, 24, e.sequence)
		if u.data == nil {
			copy(d, "zero")
			put64(d, 8, uint64(u.n))
			continue
		}
		copy(d, "desc")
		copy(d[4:8], u.data[4092:])
		copy(d[8:16], u.data)
		s := bytes.Clone(u.data)
		copy(s, "data")
		put32(s, 4, uint32(e.sequence>>32))
		put32(s, 4092, uint32(e.sequence))
		entry = append(entry, s...)
	}
	put32(entry, 8, uint32(len(entry)))
	sign(entry)
	if e.change != nil {
		e.change(entry)
	}
	at := e.at
	for ; len(entry) > 0; entry = entry[4096:] {
		copy(b[logAt+at:], entry[:4096])
		at = (at + 4096) % logLength
	}
	return at
}

func filled(c byte) []byte { return bytes.Repeat([]byte{c}, 4096) }

// whole reads a small disk.
func whole(t *testing.T, d formats.Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if n, err := d.ReadAt(b, 0); n < len(b) {
		t.Fatal(err)
	}
	return b
}

// What the log holds is read as if it had been written, in its order, also where
// it goes on at the begin of the ring.
func TestReplay(t *testing.T) {
	data := content()
	clean := written(t, vhdx.Options{}, data)
	size := int64(len(clean))
	table := bytes.Clone(clean[batAt : batAt+4096])
	put64(table, 2*8, 0)                       // the block of 4 MiB gets lost
	put64(table, 3*8, uint64(size)|6)          // and another one appears, behind the end
	moved := bytes.Clone(clean[2<<20:][:4096]) // the table of the metadata
	for _, c := range []struct {
		name    string
		entries []logged
		want    func(b []byte)
	}{
		{"zeroes and data over payload", []logged{
			{at: 0, sequence: 7, updates: []update{{off: dataAt, n: 8192}, {off: dataAt + 4096, data: filled(1)}, {off: dataAt + 12288, data: filled(2)}}},
		}, func(b []byte) { clear(b[:8192]); copy(b[4096:], filled(1)); copy(b[12288:], filled(2)) }},
		{"zeroes over a whole block", []logged{{at: 0, sequence: 7, updates: []update{{off: dataAt, n: 2 << 20}}}},
			func(b []byte) { clear(b[:2<<20]) }},
		{"a later entry counts", []logged{
			{at: 8192, tail: 8192, sequence: 7, updates: []update{{off: dataAt, data: filled(1)}, {off: dataAt + 4096, data: filled(1)}}},
			{at: 8192 + 12288, tail: 8192, sequence: 8, updates: []update{{off: dataAt, n: 4096}}},
		}, func(b []byte) { clear(b[:4096]); copy(b[4096:], filled(1)) }},
		{"the ring goes round", []logged{
			{at: logLength - 8192, tail: logLength - 8192, sequence: 1<<32 - 1, updates: []update{{off: dataAt, data: filled(1)}}},
			{at: 0, tail: logLength - 8192, sequence: 1 << 32, updates: []update{{off: dataAt, data: filled(2)}}},
		}, func(b []byte) { copy(b, filled(2)) }},
		{"an entry goes round", []logged{
			{at: logLength - 4096, tail: logLength - 4096, sequence: 3, updates: []update{{off: dataAt, data: filled(1)}, {off: dataAt + 4096, data: filled(2)}}},
			{at: 8192, tail: logLength - 4096, sequence: 4},
		}, func(b []byte) { copy(b, filled(1)); copy(b[4096:], filled(2)) }},
		{"what is before the tail is done", []logged{
			{at: 0, tail: 0, sequence: 3, updates: []update{{off: dataAt, data: filled(1)}}},
			{at: 8192, tail: 8192, sequence: 4, updates: []update{{off: dataAt + 4096, data: filled(2)}}},
		}, func(b []byte) { copy(b[4096:], filled(2)) }},
		{"an older sequence", []logged{
			{at: 65536, tail: 65536, sequence: 3, updates: []update{{off: dataAt, data: filled(1)}}},
			{at: 0, tail: 0, sequence: 9, updates: []update{{off: dataAt + 4096, data: filled(2)}}},
		}, func(b []byte) { copy(b[4096:], filled(2)) }},
		{"a newer sequence that was not completed", []logged{
			{at: 0, tail: 0, sequence: 9, updates: []update{{off: dataAt + 4096, data: filled(2)}}},
			{at: 8192, tail: 0, sequence: 10, updates: []update{{off: dataAt, data: filled(1)}}, change: func(b []byte) { b[5000]++ }},
			{at: 65536, tail: 16384, sequence: 30, updates: []update{{off: dataAt, data: filled(1)}}},
		}, func(b []byte) { copy(b[4096:], filled(2)) }},
		{"the tables", []logged{
			{at: 0, sequence: 7, last: size + 2<<20, updates: []update{{off: batAt, data: table}, {off: size, data: filled(3)}, {off: 2 << 20, data: moved}}},
		}, func(b []byte) { clear(b[4<<20 : 6<<20]); copy(b[6<<20:], filled(3)) }},
		{"many descriptors", []logged{{at: 0, sequence: 7, updates: append(zeroUpdates(300), update{off: dataAt, data: filled(9)})}},
			func(b []byte) { clear(b[:300*4096]); copy(b, filled(9)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, want := bytes.Clone(clean), bytes.Clone(data)
			for _, e := range c.entries {
				e.write(b)
			}
			before := bytes.Clone(dirty(b))
			c.want(want)
			img := open(t, b)
			formatstest.Disk(t, img, bytes.NewReader(want))
			if !bytes.Equal(whole(t, img), want) {
				t.Error("not what the log says")
			}
			if !bytes.Equal(b, before) {
				t.Error("the file was changed")
			}
			if all := strings.Join(img.Info().Warnings, ""); !strings.Contains(all, "replayed") {
				t.Errorf("warnings %q", all)
			}
			repaired := repair(t, b, formatstest.Problems(t, img))
			if longer := c.name == "the tables"; longer != (repaired == nil) {
				t.Errorf("repaired: %v", repaired != nil)
			} else if !longer && (!bytes.Equal(whole(t, repaired), want) || len(repaired.Info().Warnings) > 0 || len(formatstest.Problems(t, repaired)) > 0) {
				t.Errorf("after the repair: warnings %q, problems %+v, or other content", repaired.Info().Warnings, formatstest.Problems(t, repaired))
			}
		})
	}
}

// repair writes the patches for a log into an image; nil where there are none.
func repair(t *testing.T, b []byte, list []formats.Problem) *vhdx.Image {
	t.Helper()
	if len(list) == 0 || !strings.Contains(list[0].Message, "log") {
		t.Fatalf("%+v", list)
	}
	if len(list[0].Patches) == 0 {
		return nil
	}
	for _, p := range list[0].Patches {
		copy(b[p.Offset:], p.Bytes)
	}
	return open(t, b)
}

// zeroUpdates are n updates that zero the begin of the disk, piece by piece.
func zeroUpdates(n int) (out []update) {
	for i := range n {
		out = append(out, update{off: dataAt + int64(i)*4096, n: 4096})
	}
	return out
}

// A log that does not say what to write makes the image unreadable: what it
// would have written is not known.
func TestLogThatCannotBeReplayed(t *testing.T) {
	clean := written(t, vhdx.Options{}, content())
	one := logged{sequence: 7, updates: []update{{off: dataAt, data: filled(1)}, {off: dataAt + 8192, n: 4096}}}
	with := func(change func(b []byte), sign bool) func(b []byte) {
		return func(b []byte) {
			e := one
			e.change = func(b []byte) {
				change(b)
				if sign {
					resign(b)
				}
			}
			e.write(b)
		}
	}
	for _, c := range []struct {
		name   string
		change func(b []byte)
		why    string
		err    error
	}{
		{"empty", func([]byte) {}, "no entry", formats.ErrCorrupt},
		{"checksum", with(func(b []byte) { b[6000]++ }, false), "checksum", formats.ErrCorrupt},
		{"another log", with(func(b []byte) { b[40]++ }, true), "another log", formats.ErrCorrupt},
		{"no length", with(func(b []byte) { put32(b, 8, 0) }, false), "0 bytes", formats.ErrCorrupt},
		{"longer than the log", with(func(b []byte) { put32(b, 8, 1<<31) }, false), "room for", formats.ErrCorrupt},
		{"odd length", with(func(b []byte) { put32(b, 8, 5000) }, false), "5000 bytes", formats.ErrCorrupt},
		{"no sequence number", with(func(b []byte) { put64(b, 16, 0) }, true), "sequence number 0", formats.ErrCorrupt},
		{"tail elsewhere", with(func(b []byte) { put32(b, 12, 65536) }, true), "points to the begin", formats.ErrCorrupt},
		{"tail outside", with(func(b []byte) { put32(b, 12, 1<<30) }, true), "tail", formats.ErrCorrupt},
		{"huge count", with(func(b []byte) { put32(b, 24, 1<<31) }, true), "descriptors", formats.ErrCorrupt},
		{"strange descriptor", with(func(b []byte) { b[64]++ }, true), "descriptor", formats.ErrCorrupt},
		{"descriptor of another entry", with(func(b []byte) { b[64+24]++ }, true), "descriptor", formats.ErrCorrupt},
		{"data of another entry", with(func(b []byte) { b[8191]++ }, true), "data sector", formats.ErrCorrupt},
		{"no data", with(func(b []byte) { put32(b, 8, 4096); sign(b[:4096]) }, false), "data is missing", formats.ErrCorrupt},
		{"odd offset", with(func(b []byte) { put64(b, 64+16, 4097) }, true), "offset 4097", formats.ErrCorrupt},
		{"absurd offset", with(func(b []byte) { put64(b, 64+16, 1<<63) }, true), "for offset", formats.ErrCorrupt},
		{"absurd zeroes", with(func(b []byte) { put64(b, 96+8, 1<<62) }, true), "for offset", formats.ErrCorrupt},
		{"absurd size", with(func(b []byte) { put64(b, 56, 1<<62) }, true), "sizes", formats.ErrCorrupt},
		{"file was cut", with(func(b []byte) { put64(b, 48, 1<<40) }, true), "the file had", formats.ErrTruncated},
		{"log behind the end", func(b []byte) { put64(b, 128<<10+72, 1<<40) }, "behind the end", formats.ErrTruncated},
		{"log at an odd place", func(b []byte) { put64(b, 128<<10+72, 1<<20+512) }, "1049088", formats.ErrCorrupt},
		{"log of no length", func(b []byte) { put32(b, 128<<10+68, 0) }, "0 bytes", formats.ErrCorrupt},
		{"new version", func(b []byte) { b[128<<10+64] = 1 }, "version 1", formats.ErrUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(clean)
			c.change(b)
			_, err := vhdx.Open(formatstest.File("x.vhdx", dirty(b)), nil)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v; want %v that says %q", err, c.err, c.why)
			}
		})
	}
}

// resign signs an entry of 8192 bytes anew.
func resign(b []byte) { sign(b[:8192]) }

// QEMU replays the log of a real image as we do.
func TestReplayAgainstQEMU(t *testing.T) {
	path := formatstest.Sample(t, "disks/iotest-dirtylog-10G-4M.vhdx.bz2")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	formatstest.QemuImg(t, "check", "-r", "all", path)
	out := filepath.Join(t.TempDir(), "replayed.qcow2")
	formatstest.QemuImg(t, "convert", "-f", "vhdx", "-O", "qcow2", path, out)
	q, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := qcow2.Open(formatstest.File("replayed.qcow2", q), nil)
	if err != nil {
		t.Fatal(err)
	}
	img := open(t, b)
	if n := same(t, img, want); n < 4<<20 {
		t.Errorf("%d bytes of data", n)
	}
	// Our repair is as good as QEMU's.
	same(t, repair(t, b, formatstest.Problems(t, img)), want)
	ours := filepath.Join(t.TempDir(), "repaired.vhdx")
	if err := os.WriteFile(ours, b, 0o600); err != nil {
		t.Fatal(err)
	}
	formatstest.QemuImg(t, "check", ours)
	formatstest.QemuImg(t, "compare", ours, path)
}

// same compares two disks of one size, and tells how much data they hold.
func same(t *testing.T, a, b formats.Disk) (data int64) {
	t.Helper()
	if a.Size() != b.Size() {
		t.Fatalf("%d and %d bytes", a.Size(), b.Size())
	}
	for off := int64(0); off < a.Size(); {
		ea, err := a.Extent(off, a.Size()-off)
		if err != nil {
			t.Fatal(err)
		}
		eb, err := b.Extent(off, ea.Length)
		if err != nil {
			t.Fatal(err)
		}
		n := eb.Length
		if ea.Kind == formats.Data || eb.Kind == formats.Data {
			n = min(n, 1<<20)
			p, q := make([]byte, n), make([]byte, n)
			for d, p := range map[formats.Disk][]byte{a: p, b: q} {
				if got, err := d.ReadAt(p, off); got < len(p) && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(p, q) {
				t.Fatalf("they differ in the %d bytes at %d", n, off)
			}
			if len(bytes.Trim(p, "\x00")) > 0 {
				data += n
			}
		}
		off += n
	}
	return data
}

// counting counts what is read of a file.
type counting struct {
	io.ReaderAt
	bytes int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.bytes += int64(len(p))
	return c.ReaderAt.ReadAt(p, off)
}

// Whatever the entries of a log claim, each of its sectors is read a few times at
// most, and what has to be kept of it does not grow with what it claims.
func TestHostileLog(t *testing.T) {
	const length = 8 << 20
	clean := written(t, vhdx.Options{}, content())
	for name, entry := range map[string]func(b []byte, i int){
		"all as long as the log": func(b []byte, _ int) { put32(b, 8, length) },
		"a long run of entries that begins elsewhere": func(b []byte, i int) {
			put32(b, 8, 4096)
			if i == 0 {
				put64(b, 16, 0) // it is the tail of all others, and is none
			}
		},
		"zeroes without end": func(b []byte, i int) {
			put32(b, 8, 4096)
			put32(b, 24, 126)
			for d := b[64:]; len(d) >= 32; d = d[32:] {
				copy(d, "zero")
				put64(d, 8, 1<<20)
				put64(d, 16, dataAt)
				put64(d, 24, uint64(i+1))
			}
		},
	} {
		b := append(bytes.Clone(clean), make([]byte, length)...)
		put32(b, 128<<10+68, length)
		put64(b, 128<<10+72, uint64(len(clean)))
		for i := range length / 4096 {
			e := b[len(clean)+i*4096:][:4096]
			copy(e, "loge")
			put64(e, 16, uint64(i+1))
			copy(e[32:], guid.Bytes(logID))
			entry(e, i)
			sign(e)
		}
		f := &counting{ReaderAt: bytes.NewReader(dirty(b))}
		img, err := vhdx.Open(formats.File{ReaderAt: f, Size: int64(len(b)), Name: name}, nil)
		if name == "zeroes without end" {
			if err != nil {
				t.Fatal(err)
			}
			if list := formatstest.Problems(t, img); len(list) == 0 || list[0].Patches != nil {
				t.Errorf("problems %d", len(list))
			}
		} else if !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if f.bytes > 5*length {
			t.Errorf("%s: %d bytes read of a log of %d", name, f.bytes, length)
		}
	}
}

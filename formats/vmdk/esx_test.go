package vmdk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vmdk"
	"hyper2kvm/image/chain"
)

// delta is what a snapshot's file holds, by number of the grain: bytes, or nil
// for one that reads as zero.
type delta map[int64][]byte

func words(b []byte, off int64, values ...uint64) {
	for i, v := range values {
		binary.LittleEndian.PutUint64(b[off+int64(i)*8:], v)
	}
}

// seSparse makes the file of a delta as ESX lays it out: header, volatile
// header, directory at sector 4, tables at 16, and grains behind. Tables and
// grains are numbered against the order of the disk, and grain numbers leave
// out those below first, so that they need all their bits.
func seSparse(size int64, d delta, first uint64) []byte {
	const grain, covers = 4096, 4096 * 4096
	tables := uint64((size + covers - 1) / covers)
	count := first + uint64(len(d))
	grains := 16 + tables*64
	b := make([]byte, grains*512+count*grain)
	words(b, 0, 0xcafebabe, 0x200000001, uint64(size/512), 8, 64, 0, 0, 0, 0, 0, 1, 1, 2, 2, 0, 0, 4, 12, 16, tables*64,
		0, 0, 0, 0, grains, count*8)
	words(b, 512, 0xcafecafe)
	used := map[uint64]bool{}
	next := count
	for i := range (size + grain - 1) / grain {
		data, has := d[i]
		if !has {
			continue
		}
		table := tables - 1 - uint64(i*grain/covers)
		used[table] = true
		words(b, 4*512+i*grain/covers*8, 1<<60|table)
		entry := uint64(1+i%2) << 60 // trimmed, or zeroed
		if data != nil {
			next--
			copy(b[grains*512+next*grain:], data)
			entry = 3<<60 | next&0xfff<<48 | next>>12
		}
		words(b, 16*512+int64(table)*64*512+i%4096*8, entry)
	}
	return b
}

// cowd makes the file of a delta in the older layout; it cannot say that a
// grain is zero. The grain is one sector, as ESX has it.
func cowd(size int64, d delta) []byte {
	const grain, covers = 512, 512 * 4096
	tables := (size + covers - 1) / covers
	b := make([]byte, 4*512+(tables*4+511)/512*512)
	for i, v := range []uint32{0x44574f43, 1, 3, uint32(size / 512), 1, 4, uint32(tables)} {
		binary.LittleEndian.PutUint32(b[i*4:], v)
	}
	at := make([]int64, tables)
	for i := size/grain - 1; i >= 0; i-- { // against the order of the disk
		if d[i] == nil {
			continue
		}
		t := i * grain / covers
		if at[t] == 0 {
			at[t] = int64(len(b))
			binary.LittleEndian.PutUint32(b[4*512+t*4:], uint32(at[t]/512))
			b = append(b, make([]byte, 4096*4)...)
		}
		binary.LittleEndian.PutUint32(b[at[t]+i%4096*4:], uint32(len(b)/512))
		b = append(b, d[i]...)
	}
	return b
}

// snapshot is a disk of a flat base and a delta, in a folder.
type snapshot struct {
	dir, top string
	want     []byte // computed from base and delta
}

func (s snapshot) write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// over puts a delta, whose file is b, over a base of noise.
func over(t *testing.T, size int64, d delta, grain int64, kind string, b []byte) snapshot {
	t.Helper()
	s := snapshot{dir: t.TempDir(), want: pattern(int(size))}
	s.write(t, "web-flat.vmdk", s.want)
	const head = "# Disk DescriptorFile\nversion=1\nCID=%s\nparentCID=%s\ncreateType=\"%s\"\n%s\nRW %d %s \"%s\"%s\n"
	s.write(t, "web.vmdk", fmt.Appendf(nil, head, "1234abcd", "ffffffff", "vmfs", "", size/512, "VMFS", "web-flat.vmdk", ""))
	s.write(t, "web-000001-delta.vmdk", b)
	s.write(t, "web-000001.vmdk", fmt.Appendf(nil, head, "99887766", "1234abcd", kind, `parentFileNameHint="web.vmdk"`,
		size/512, strings.ToUpper(kind), "web-000001-delta.vmdk", ""))
	s.top = filepath.Join(s.dir, "web-000001.vmdk")
	for i, data := range d {
		part := s.want[i*grain : min((i+1)*grain, size)]
		clear(part)
		copy(part, data)
	}
	return s
}

// some is a delta with runs, single grains, the ends of the disk and, where the
// format has them, zeroes.
func some(size, grain int64, zeroes bool) delta {
	d := delta{}
	for _, i := range []int64{0, 1, 2, 77, 79, 4095, 4096, 4097, 4500, (size - 1) / grain} {
		if i*grain < size {
			d[i] = bytes.Repeat([]byte(fmt.Sprintf("%08d", i)), int(grain/8))
		}
	}
	if zeroes {
		for _, i := range []int64{10, 11, 78, 1000} {
			d[i] = nil
		}
	}
	return d
}

// The deltas of ESX over their base, against what was put together by hand and
// what QEMU reads.
func TestDeltasOfESX(t *testing.T) {
	needQemuImg(t)
	const size = 40<<20 + 512
	for _, c := range []struct {
		kind  string
		grain int64
		make  func(d delta) []byte
	}{
		{"seSparse", 4096, func(d delta) []byte { return seSparse(size, d, 0) }},
		{"seSparse", 4096, func(d delta) []byte { return seSparse(size, d, 5000) }},
		{"vmfsSparse", 512, func(d delta) []byte { return cowd(size, d) }},
	} {
		t.Run(c.kind, func(t *testing.T) {
			d := some(size, c.grain, c.kind == "seSparse")
			s := over(t, size, d, c.grain, c.kind, c.make(d))
			disk, err := chain.Open(s.top, chain.Policy{})
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			if in := disk.Images()[0].Info; in.Variant != c.kind || in.ClusterSz != c.grain || in.Size != size || len(in.Warnings) > 0 {
				t.Errorf("Info = %+v", in)
			}
			formatstest.Disk(t, disk, bytes.NewReader(s.want))
			all := make([]byte, size)
			if _, err := disk.ReadAt(all, 0); err != nil || !bytes.Equal(all, s.want) {
				t.Errorf("the disk is not base and delta (%v)", err)
			}
			formatstest.QemuImg(t, "convert", "-O", "raw", s.top, filepath.Join(s.dir, "raw"))
			if raw, err := os.ReadFile(filepath.Join(s.dir, "raw")); err != nil || !bytes.Equal(raw, s.want) {
				t.Errorf("QEMU does not read base and delta, so the test's image is wrong (%v)", err)
			}
			// Alone, with its descriptor, it has nothing to say of the rest.
			img := mustOpen(t, s.top)
			formatstest.Disk(t, img, nil)
			if e, err := img.Extent(20*4096, 1); err != nil || e.Kind != formats.Absent {
				t.Errorf("Extent = %+v, %v; want absent", e, err)
			}
			if e, err := img.Extent(78*4096, 4096); c.kind == "seSparse" && (err != nil || e.Kind != formats.Zero || e.Length != 4096) {
				t.Errorf("Extent = %+v, %v; want zero", e, err)
			}
		})
	}
}

// A snapshot that was not written to yet has neither tables nor grains: its file
// may end before their regions.
func TestEmptySeSparse(t *testing.T) {
	const size = 40 << 20
	s := over(t, size, nil, 4096, "seSparse", seSparse(size, nil, 0)[:16*512])
	formatstest.Disk(t, mustChain(t, s.top), bytes.NewReader(s.want))
}

// A delta over the wrong base is refused by its CID.
func TestDeltaOverAnotherBase(t *testing.T) {
	const size = 1 << 20
	d := delta{3: bytes.Repeat([]byte("x"), 4096)}
	s := over(t, size, d, 4096, "seSparse", seSparse(size, d, 0))
	text, err := os.ReadFile(filepath.Join(s.dir, "web.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "web.vmdk", bytes.Replace(text, []byte("1234abcd"), []byte("1234abce"), 1))
	if _, err := chain.Open(s.top, chain.Policy{}); !errors.Is(err, chain.ErrWrongParent) {
		t.Errorf("got %v", err)
	}
}

func TestDamagedSeSparse(t *testing.T) {
	const size = 40 << 20
	good := seSparse(size, some(size, 4096, true), 0)
	for _, c := range []struct {
		name  string
		off   int64
		value uint64
		keep  int
		want  error
	}{
		{"version 3", 8, 0x300000001, 0, formats.ErrUnsupported},
		{"grains of 64 KiB", 24, 128, 0, formats.ErrUnsupported},
		{"tables of another size", 32, 128, 0, formats.ErrUnsupported},
		{"flags", 40, 1, 0, formats.ErrUnsupported},
		{"absurd capacity", 16, 1 << 60, 0, formats.ErrCorrupt},
		{"small directory", 136, 0, 0, formats.ErrCorrupt},
		{"directory outside", 128, 1 << 50, 0, formats.ErrTruncated},
		{"tables outside", 144, 1 << 50, 0, formats.ErrTruncated},
		{"tables at an absurd place", 144, 1 << 62, 0, formats.ErrCorrupt},
		{"grains past the end", 192, 1 << 50, 0, formats.ErrTruncated},
		{"no grains", 192, 0, 0, formats.ErrCorrupt},
		{"volatile header elsewhere", 80, 3, 0, formats.ErrCorrupt},
		{"journal to be carried out", 512 + 24, 1, 0, formats.ErrUnsupported},
		{"entry of the directory of no type", 4 * 512, 1, 0, formats.ErrCorrupt},
		{"entry of the directory of an unknown type", 4 * 512, 2 << 60, 0, formats.ErrCorrupt},
		{"table outside", 4 * 512, 1<<60 | 1<<31, 0, formats.ErrTruncated},
		{"entry of a table of no type", (16 + 2*64) * 512, 1, 0, formats.ErrCorrupt},
		{"entry of a table of an unknown type", (16 + 2*64) * 512, 4 << 60, 0, formats.ErrCorrupt},
		{"grain outside", (16 + 2*64) * 512, 3<<60 | 1<<47, 0, formats.ErrTruncated},
		{"header cut", 0, 0xcafebabe, 300, formats.ErrTruncated},
		{"tables cut", 0, 0xcafebabe, 100 << 10, formats.ErrTruncated},
		{"grains cut", 0, 0xcafebabe, len(good) - 5000, formats.ErrTruncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			words(b, c.off, c.value)
			if c.keep > 0 {
				b = b[:c.keep]
			}
			text := fmt.Appendf(nil, "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=2\nRW %d SESPARSE \"x\"\n", size/512)
			img, err := vmdk.Open(formatstest.File("d.vmdk", text), func(string) (formats.File, error) { return formatstest.File("x", b), nil })
			if err == nil {
				err = formatstest.Every(img, 64<<20)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v; want %v", err, c.want)
			}
		})
	}
}

// What is only a part of a disk is not read as one: what lies in its parent, or
// in the other parts, would be lost without a word.
func TestPartOfADisk(t *testing.T) {
	needQemuImg(t)
	dir := t.TempDir()
	d := delta{3: bytes.Repeat([]byte("x"), 4096)}
	split := filepath.Join(dir, "split.vmdk")
	formatstest.QemuImg(t, "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", split, "3G")
	if out, err := exec.Command("qemu-io", "-c", "write -P 1 0 1M", "-c", "write -P 2 2500M 1M", split).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	for name, b := range map[string][]byte{
		"web-000001-sesparse.vmdk": seSparse(1<<20, d, 0),
		"web-000001-delta.vmdk":    cowd(1<<20, delta{3: d[3][:512]}),
		"split-s001.vmdk":          nil,
		"split-s002.vmdk":          nil,
	} {
		if b == nil {
			var err error
			if b, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if img, err := vmdk.Open(formatstest.File(name, b), folder(dir)); !errors.Is(err, formats.ErrPart) || img != nil {
			t.Errorf("%s: %v; want %v", name, err, formats.ErrPart)
		}
	}
	if img := mustOpen(t, split); img.Size() != 3<<30 {
		t.Errorf("the whole has %d bytes", img.Size())
	}
}

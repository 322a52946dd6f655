package overlay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/raw"
	"hyper2kvm/image/hostfile"
)

// memory gives a base disk with these bytes.
func memory(b []byte) formats.Disk {
	return raw.New(formats.File{ReaderAt: bytes.NewReader(b), Size: int64(len(b)), Name: "base"})
}

// hollow is a base of any size that reads as zeroes.
type hollow int64

func (h hollow) Size() int64 { return int64(h) }

func (h hollow) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	return len(p), nil
}

func (h hollow) Extent(off, limit int64) (formats.Extent, error) {
	return formats.Extent{Offset: off, Length: min(limit, int64(h)-off), Kind: formats.Zero}, nil
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	r.Read(b)
	return b
}

// quickDir is a folder in memory, where there is one: the tests sync often, and
// what they look at does not depend on the disk.
func quickDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "overlay")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func mustCreate(t testing.TB, base formats.Disk) (*Overlay, string) {
	t.Helper()
	path := filepath.Join(quickDir(t), "overlay")
	o, err := Create(path, base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o, path
}

func content(t rapid.TB, d formats.Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if n, err := d.ReadAt(b, 0); n != len(b) || err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("read whole disk = %d, %v", n, err)
	}
	return b
}

// checkExtents walks the extents and compares each with what is read there.
func checkExtents(t rapid.TB, d formats.Disk, want []byte) {
	t.Helper()
	for off := int64(0); off < d.Size(); {
		e, err := d.Extent(off, d.Size()-off)
		if err != nil {
			t.Fatalf("Extent(%d): %v", off, err)
		}
		if e.Offset != off || e.Length < 1 || e.Length > d.Size()-off {
			t.Fatalf("Extent(%d) = %+v of a disk of %d", off, e, d.Size())
		}
		part := want[off : off+e.Length]
		switch {
		case e.Kind == formats.Absent:
			t.Fatalf("Extent(%d) is absent", off)
		case e.Kind == formats.Zero && !isZero(part):
			t.Fatalf("Extent(%d) says zero for %d bytes that are not", off, e.Length)
		case e.Plain != nil:
			got := make([]byte, e.Length)
			if _, err := e.Plain.File.ReadAt(got, e.Plain.Offset); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if !bytes.Equal(got, part) {
				t.Fatalf("plain location of extent at %d holds other bytes", off)
			}
		}
		off += e.Length
	}
}

// TestModel does the same to an overlay and to a slice of bytes.
func TestModel(t *testing.T) {
	dir := quickDir(t)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{0, 1, 511, 4096, 5000, 20000, 65536 + 512, 100000}).Draw(t, "size")
		if rapid.IntRange(0, 99).Draw(t, "two chunks") == 50 { // rarely: it is slow
			size = chunkBytes + 3*BlockSize + 7
		}
		want := noise(size)
		clear(want[size/3 : size/2])
		base := memory(bytes.Clone(want))
		path := filepath.Join(dir, "model")
		o, err := Create(path, base)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { o.Close() }()
		pick := func() (off, n int) {
			off = rapid.IntRange(0, size).Draw(t, "off")
			if rapid.Bool().Draw(t, "aligned") {
				off -= off % BlockSize
			}
			n = rapid.IntRange(0, min(size-off, 5*BlockSize)).Draw(t, "n")
			if rapid.IntRange(0, 9).Draw(t, "much") == 0 {
				n = size - off
			}
			return off, n
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				off, n := pick()
				p := noise(n)
				if n > 0 {
					z := rapid.IntRange(0, n).Draw(t, "zeroes")
					clear(p[:z])
				}
				if got, err := o.WriteAt(p, int64(off)); got != n || err != nil {
					t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", n, off, got, err)
				}
				copy(want[off:], p)
			},
			"zero": func(t *rapid.T) {
				off, n := pick()
				if err := o.Zero(int64(off), int64(n)); err != nil {
					t.Fatal(err)
				}
				clear(want[off : off+n])
			},
			"sync": func(t *rapid.T) {
				if err := o.Sync(); err != nil {
					t.Fatal(err)
				}
			},
			"reopen": func(t *rapid.T) {
				if err := o.Close(); err != nil {
					t.Fatal(err)
				}
				if o, err = Open(path, base); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				if !bytes.Equal(content(t, o), want) {
					t.Fatal("content differs")
				}
				checkExtents(t, o, want)
			},
		})
		into := content(t, base)
		for range 2 {
			if err := o.Commit(context.Background(), (*sliceWriter)(&into)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(into, want) {
				t.Fatal("committed content differs")
			}
		}
	})
}

type sliceWriter []byte

func (w *sliceWriter) WriteAt(p []byte, off int64) (int, error) {
	return copy((*w)[off:off+int64(len(p))], p), nil
}

// TestSuite runs the suite of formats.Disk on an overlay, and on an overlay
// over that one, with own, zero and base blocks next to each other.
func TestSuite(t *testing.T) {
	want := noise(chunkBytes + 5*BlockSize + 77)
	clear(want[4*BlockSize : 1<<20])
	first, _ := mustCreate(t, memory(bytes.Clone(want)))
	second, _ := mustCreate(t, first)
	for i, o := range []*Overlay{first, second} {
		for _, off := range []int{100, 8 << 20, chunkBytes - 1000, len(want) - 2000} {
			off += i * 5000 % 2000
			p := noise(2000 - i*5000%2000)
			if _, err := o.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
			copy(want[off:], p)
		}
		if err := o.Trim(int64(2<<20+i<<19), 1<<20); err != nil {
			t.Fatal(err)
		}
		clear(want[2<<20+i<<19:][:1<<20])
		formatstest.Disk(t, o, bytes.NewReader(want))
	}
}

func TestPartsOfOneBlockInParallel(t *testing.T) {
	const blocks = 64
	base := noise(blocks * BlockSize)
	o, _ := mustCreate(t, memory(base))
	want := noise(blocks*BlockSize + 1)[1:]
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for b := range blocks {
				off := b*BlockSize + part*512
				if _, err := o.WriteAt(want[off:off+512], int64(off)); err != nil {
					t.Error(err)
				}
				if part == 0 {
					if err := o.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(content(t, o), want) {
		t.Error("a write of a part of a block was lost")
	}
}

func TestDiscardGivesSpaceBack(t *testing.T) {
	o, path := mustCreate(t, hollow(64<<20))
	if _, err := o.WriteAt(noise(32<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := o.Sync(); err != nil {
		t.Fatal(err)
	}
	full := allocated(t, path)
	if err := o.Trim(0, 32<<20); err != nil {
		t.Fatal(err)
	}
	if left := allocated(t, path); full < 32<<20 || left > full/100 {
		t.Errorf("allocated %d bytes before the discard, %d after", full, left)
	}
	if e, err := o.Extent(0, 64<<20); err != nil || e.Kind != formats.Zero || e.Length < 32<<20 {
		t.Errorf("Extent = %+v, %v", e, err)
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512 // st_blocks counts in 512 bytes
}

// TestHugeDisk holds the promise on memory: a few changes of an 8 TiB disk
// cost the table of its chunks and a page each.
func TestHugeDisk(t *testing.T) {
	const size = 8 << 40
	o, path := mustCreate(t, hollow(size))
	if err := o.Trim(1<<40, 2<<40); err != nil {
		t.Fatal(err)
	}
	for i := range int64(1000) {
		if _, err := o.WriteAt([]byte("x"), i*(size/1000)); err != nil {
			t.Fatal(err)
		}
	}
	mixedChunks := 0
	for _, c := range o.table.chunks {
		if c.page != nil {
			mixedChunks++
		}
	}
	if mixedChunks > 1001 {
		t.Errorf("%d pages for 1000 writes", mixedChunks)
	}
	if err := o.Sync(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(MapPath(path)); err != nil || info.Size() > 4<<20 {
		t.Errorf("map of %d bytes, %v", info.Size(), err)
	}
	if got := len(o.Dirty()); got < 1000 {
		t.Errorf("%d dirty extents", got)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path, hollow(size))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var p [1]byte
	if _, err := again.ReadAt(p[:], 999*(size/1000)); err != nil || p[0] != 'x' {
		t.Errorf("read %q, %v", p, err)
	}
}

func TestMapIsWrittenAnewWhenMostOfItIsOld(t *testing.T) {
	o, path := mustCreate(t, hollow(chunkBytes))
	for i := range int64(1200) {
		if _, err := o.WriteAt([]byte{1}, i*2*BlockSize%chunkBytes+i%512); err != nil {
			t.Fatal(err)
		}
		if err := o.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(MapPath(path))
	if err != nil || info.Size() > slack+3<<10 {
		t.Errorf("map of one chunk takes %d bytes, %v", info.Size(), err)
	}
	want := content(t, o)
	o.Close()
	if o, err = Open(path, hollow(chunkBytes)); err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if !bytes.Equal(content(t, o), want) {
		t.Error("content differs after opening again")
	}
}

func TestRefusals(t *testing.T) {
	o, path := mustCreate(t, hollow(10000))
	if _, err := Open(path, hollow(10000)); !errors.Is(err, ErrBusy) {
		t.Errorf("second Open = %v, want ErrBusy", err)
	}
	if _, err := Create(path, hollow(10000)); !errors.Is(err, ErrBusy) {
		t.Errorf("Create over an open one = %v, want ErrBusy", err)
	}
	for _, r := range [][2]int64{{-1, 1}, {9999, 2}, {10001, 0}, {0, -1}, {1, 1<<63 - 1}} {
		if err := o.Zero(r[0], r[1]); !errors.Is(err, ErrRange) {
			t.Errorf("Zero(%d, %d) = %v, want ErrRange", r[0], r[1], err)
		}
	}
	if _, err := o.WriteAt([]byte("xx"), 9999); !errors.Is(err, ErrRange) {
		t.Errorf("WriteAt past the end = %v, want ErrRange", err)
	}
	o.Close()
	if _, err := Open(path, hollow(10001)); !errors.Is(err, ErrMap) {
		t.Errorf("Open over a base of another size = %v, want ErrMap", err)
	}
	if err := os.WriteFile(MapPath(path), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, hollow(10000)); !errors.Is(err, ErrMap) {
		t.Errorf("Open with a broken map = %v, want ErrMap", err)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("Remove left %v", left)
	}
	if err := Remove(path); err != nil {
		t.Errorf("second Remove = %v", err)
	}
}

// TestCommitToFile commits into the very file that the overlay lies over, as
// a change in place does.
func TestCommitToFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "disk.img")
	was := noise(3<<20 + 100)
	if err := os.WriteFile(name, was, 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := hostfile.OpenWrite(name)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	o, err := Create(filepath.Join(dir, "o"), raw.New(host.Format()))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	want := bytes.Clone(was)
	copy(want[3<<20+50:], "the end")
	clear(want[1<<20 : 2<<20])
	if _, err := o.WriteAt([]byte("the end"), 3<<20+50); err != nil {
		t.Fatal(err)
	}
	if err := o.Trim(1<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := o.Commit(t.Context(), host.OSFile()); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("committed file differs (%d bytes, %v)", len(got), err)
		}
	}
	if took := allocated(t, name); took > int64(len(want))-(1<<20)+64<<10 {
		t.Errorf("the discard made no hole: %d bytes allocated", took)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Commit(stopped, host.OSFile()); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit after cancel = %v", err)
	}
}

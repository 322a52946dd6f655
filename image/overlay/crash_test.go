package overlay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	crashSize  = chunkBytes + 64*BlockSize
	crashChild = "H2K_OVERLAY_CRASH_CHILD"
)

// stamp fills a block with a round's number.
func stamp(round int) []byte {
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], uint64(round))
	return bytes.Repeat(word[:], BlockSize/8)
}

// crashBlock is the block that round writes; it comes back to old ones.
func crashBlock(round int) int64 { return int64(round*2654435761) % (crashSize / BlockSize) }

// TestCrashChild is no test: it is what TestKill kills.
func TestCrashChild(t *testing.T) {
	path := os.Getenv(crashChild)
	if path == "" {
		t.Skip("runs only as the child of TestKill")
	}
	o, err := Create(path, hollow(crashSize))
	if err != nil {
		t.Fatal(err)
	}
	for round := 1; ; round++ {
		off := crashBlock(round) * BlockSize
		if round%5 == 0 {
			err = o.Trim(off, BlockSize)
		} else {
			_, err = o.WriteAt(stamp(round), off)
		}
		if err == nil && round%7 == 0 {
			if err = o.Sync(); err == nil {
				fmt.Printf("\nsynced %d\n", round)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestKill kills a writer at any moment and holds the overlay to its promise:
// each block has what it had at the last Sync, or something newer.
func TestKill(t *testing.T) {
	for i := range 4 {
		path := filepath.Join(t.TempDir(), "overlay")
		synced := killWriter(t, path, time.Duration(40+i*60)*time.Millisecond)
		o, err := Open(path, hollow(crashSize))
		if err != nil {
			t.Fatalf("after kill at round %d: %v", synced, err)
		}
		checkCrashed(t, o, synced, synced+100000)
		o.Close()
	}
}

// killWriter runs the child for a while after its first Sync and gives the
// last round that it is known to have synced.
func killWriter(t *testing.T, path string, after time.Duration) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.v")
	cmd.Env = append(os.Environ(), crashChild+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, ok := strings.CutPrefix(lines.Text(), "synced ")
		if !ok {
			continue
		}
		if last == 0 {
			timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
			defer timer.Stop()
		}
		if last, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Wait()
	if last == 0 {
		t.Fatal("the child synced nothing")
	}
	return last
}

// checkCrashed compares with the state after round synced; rounds up to newest
// may or may not have reached the file.
func checkCrashed(t *testing.T, o *Overlay, synced, newest int) {
	t.Helper()
	want := make([]int, crashSize/BlockSize) // round, 0 for zeroes
	for round := 1; round <= synced; round++ {
		want[crashBlock(round)] = round
		if round%5 == 0 {
			want[crashBlock(round)] = 0
		}
	}
	p := make([]byte, BlockSize)
	for b := range want {
		if _, err := o.ReadAt(p, int64(b)*BlockSize); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		got := int(binary.LittleEndian.Uint64(p))
		if !bytes.Equal(p, stamp(got)) {
			t.Fatalf("block %d holds garbage", b)
		}
		switch {
		case got == want[b], got == 0 && trimmedAfter(b, synced, newest):
		case got > synced && got <= newest && crashBlock(got) == int64(b) && got%5 != 0:
		default:
			t.Fatalf("block %d holds round %d, want %d (synced %d)", b, got, want[b], synced)
		}
	}
}

func trimmedAfter(b, synced, newest int) bool {
	for round := synced + 1; round <= newest; round++ {
		if round%5 == 0 && crashBlock(round) == int64(b) {
			return true
		}
	}
	return false
}

// TestTornMap cuts the map at every length, and spoils what follows, as a power
// cut in the middle of a Sync may: what counts is the last whole batch.
func TestTornMap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "overlay")
	o, err := Create(path, hollow(crashSize))
	if err != nil {
		t.Fatal(err)
	}
	ends := map[int64]int{o.log.end: 0} // length of the map after a Sync -> round
	const rounds = 12
	for round := 1; round <= rounds; round++ {
		if _, err := o.WriteAt(stamp(round), crashBlock(round)*BlockSize); err != nil {
			t.Fatal(err)
		}
		if err := o.Sync(); err != nil {
			t.Fatal(err)
		}
		ends[o.log.end] = round
	}
	o.Close()
	whole, err := os.ReadFile(MapPath(path))
	if err != nil {
		t.Fatal(err)
	}
	synced := 0
	for cut := int64(headerBytes); cut <= int64(len(whole)); cut++ {
		if round, ok := ends[cut]; ok {
			synced = round
		}
		if cut%41 != 0 && cut != int64(len(whole)) {
			continue
		}
		torn := append(bytes.Clone(whole[:cut]), noise(100)...)
		if err := os.WriteFile(MapPath(path), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := Open(path, hollow(crashSize))
		if err != nil {
			t.Fatalf("map cut at %d: %v", cut, err)
		}
		dirty := int64(0)
		for _, e := range o.Dirty() {
			dirty += e.Length / BlockSize
		}
		if dirty != int64(synced) {
			t.Errorf("map cut at %d: %d blocks, want %d", cut, dirty, synced)
		}
		for round := 1; round <= synced; round++ {
			p := make([]byte, BlockSize)
			if _, err := o.ReadAt(p, crashBlock(round)*BlockSize); err != nil || !bytes.Equal(p, stamp(round)) {
				t.Errorf("map cut at %d: round %d is lost (%v)", cut, round, err)
			}
		}
		o.Close()
	}
}

// TestSpoiltBatch flips one bit: the batch it is in must not count.
func TestSpoiltBatch(t *testing.T) {
	o, path := mustCreate(t, hollow(crashSize))
	var ends []int64
	for round := 1; round <= 2; round++ {
		if _, err := o.WriteAt(stamp(round), crashBlock(round)*BlockSize); err != nil {
			t.Fatal(err)
		}
		if err := o.Sync(); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, o.log.end)
	}
	o.Close()
	whole, err := os.ReadFile(MapPath(path))
	if err != nil {
		t.Fatal(err)
	}
	whole[ends[0]+batchBytes+recordBytes+500] ^= 4
	if err := os.WriteFile(MapPath(path), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err = Open(path, hollow(crashSize)); err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if d := o.Dirty(); len(d) != 1 || d[0].Offset != crashBlock(1)*BlockSize {
		t.Errorf("dirty after a spoilt second batch: %+v", d)
	}
}

// FuzzMap: whatever is in the map file, reading it gives a table that is whole,
// and writing that table gives a map that reads the same.
func FuzzMap(f *testing.F) {
	const size = 3*chunkBytes - 5
	var p page
	p.set(1, own)
	p.set(2, zero)
	f.Add(batches([]record{{chunk: 1, state: mixed, page: &p}, {chunk: 2, state: zero}, {chunk: 0, state: own}}))
	f.Add([]byte("btch\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second table
		first.init(size)
		second.init(size)
		b := append(header(size), body...)
		end, err := replay(bytes.NewReader(b), size, &first)
		if err != nil || end > int64(len(b)) {
			t.Fatalf("replay = %d of %d, %v", end, len(b), err)
		}
		var records []record
		for c := range first.chunks {
			ch := &first.chunks[c]
			if (ch.state == mixed) != (ch.page != nil) {
				t.Fatalf("chunk %d: state %d, page %v", c, ch.state, ch.page != nil)
			}
			records = append(records, record{chunk: int64(c), state: ch.state, page: ch.page})
		}
		if _, err := replay(bytes.NewReader(append(header(size), batches(records)...)), size, &second); err != nil {
			t.Fatal(err)
		}
		for c := range first.chunks {
			for b := range first.blocksIn(int64(c)) {
				s1, _ := first.run(int64(c), b, b+1)
				s2, _ := second.run(int64(c), b, b+1)
				if s1 != s2 || s1 == mixed {
					t.Fatalf("chunk %d block %d: %d, then %d", c, b, s1, s2)
				}
			}
		}
	})
}

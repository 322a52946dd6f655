package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hyper2kvm/formats"
)

// tape is a client that has sent all it ever will, and keeps what it gets.
type tape struct {
	io.Reader
	mu  sync.Mutex
	got bytes.Buffer
}

func (c *tape) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.Write(p)
}

func (c *tape) Close() error                     { return nil }
func (c *tape) LocalAddr() net.Addr              { return nil }
func (c *tape) RemoteAddr() net.Addr             { return nil }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

// fuzzSize has a part of a MiB at its end.
const fuzzSize = 2*mib + 4096 + 17

// scratch is a writable disk in memory.
type scratch struct {
	mu sync.Mutex
	holey
}

func (d *scratch) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.holey.ReadAt(p, off)
}

func (d *scratch) Extent(off, limit int64) (formats.Extent, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.holey.Extent(off, limit)
}

func (d *scratch) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.holey[off:off+int64(len(p))], p), nil // panics where a bound was not checked
}

func (d *scratch) Zero(off, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.holey[off : off+length])
	return nil
}

func (d *scratch) Trim(off, length int64) error { return d.Zero(off, length) }
func (d *scratch) Sync() error                  { return nil }

// play serves one recorded client and gives what it was sent.
func play(t *testing.T, input []byte, exports ...Export) []byte {
	c := &tape{Reader: bytes.NewReader(input)}
	s := newServer(exports)
	s.serveConn(t.Context(), c)
	if s.diskErr != nil {
		t.Fatalf("a request that the disk cannot do got through: %v", s.diskErr)
	}
	return c.got.Bytes()
}

func seeds(f *testing.F) {
	f.Helper()
	dir := os.Getenv("H2K_TESTDATA")
	if dir == "" {
		f.Log("without the seeds of nbdkit: H2K_TESTDATA is not set")
		return
	}
	paths, err := filepath.Glob(filepath.Join(dir, "nbd-fuzz", "nbdkit", "*"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("seeds of nbdkit: %d, %v", len(paths), err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// FuzzSession: whatever a client sends, the server greets it, ends the session,
// and a read-only disk keeps its bytes.
func FuzzSession(f *testing.F) {
	seeds(f)
	f.Add(session(2))
	meta := append(appendString(nil, ""), 0, 0, 0, 1)
	f.Add(append(binary.BigEndian.AppendUint32(nil, 3), append(append(append(optionMessage(optStructuredReply, nil),
		optionMessage(optSetMeta, appendString(meta, contextName))...), optionMessage(optList, nil)...), optionMessage(optAbort, nil)...)...))
	f.Fuzz(func(t *testing.T, input []byte) {
		b := make(holey, fuzzSize)
		b[0] = 1
		got := play(t, input, Export{Name: "/", Disk: b, Writer: nil}, Export{Name: "w", Disk: &scratch{holey: make(holey, 5000)}})
		if len(got) < 18 || binary.BigEndian.Uint64(got) != magicServer {
			t.Fatalf("greeting %x", got)
		}
		if b[0] != 1 || bytes.Count(b, []byte{0}) != fuzzSize-1 {
			t.Fatal("a read-only disk was written")
		}
	})
}

// FuzzRequests: after a good negotiation, every reply to whatever comes is a
// whole chunk that stays within the disk and within what was asked for.
func FuzzRequests(f *testing.F) {
	f.Add(message(0, cmdRead, 1, 0, 8192, nil))
	f.Add(message(cmdFlagDF, cmdRead, 1, fuzzSize-5000, 5000, nil))
	f.Add(message(0, cmdWrite, 2, fuzzSize-3, 3, []byte("abc")))
	f.Add(message(cmdFlagReqOne, cmdBlockStatus, 3, 10, fuzzSize-10, nil))
	f.Add(message(cmdFlagFUA, cmdTrim, 4, 1, 1<<31, nil))
	f.Add(append(message(0, cmdWriteZeroes, 5, 4096, 100, nil), message(0, cmdDisc, 0, 0, 0, nil)...))
	f.Add(message(0, cmdWrite, 6, 0, 1<<32-1, nil))
	f.Fuzz(func(t *testing.T, input []byte) {
		disk := &scratch{holey: make(holey, fuzzSize)}
		copy(disk.holey[100:], "some data")
		hello := clientGo("", true)
		got := play(t, append(withMeta(hello), input...), Export{Disk: disk, Writer: disk})
		checkReplies(t, skipHandshake(t, got))
	})
}

// withMeta puts the choice of base:allocation between the two options of clientGo.
func withMeta(hello []byte) []byte {
	query := appendString(append(appendString(nil, ""), 0, 0, 0, 1), contextName)
	split := 4 + 16
	return append(append(append([]byte(nil), hello[:split]...), optionMessage(optSetMeta, query)...), hello[split:]...)
}

func skipHandshake(t *testing.T, got []byte) []byte {
	got = got[18:]
	for len(got) >= 20 && binary.BigEndian.Uint64(got) == magicReply {
		got = got[20+binary.BigEndian.Uint32(got[16:]):]
	}
	return got
}

func checkReplies(t *testing.T, got []byte) {
	for len(got) > 0 {
		if len(got) >= 16 && binary.BigEndian.Uint32(got) == magicSimple {
			got = got[16:] // never with data here: reads are structured
			continue
		}
		if len(got) < 20 || binary.BigEndian.Uint32(got) != magicStructured {
			t.Fatalf("reply %x", got[:min(len(got), 32)])
		}
		kind, length := binary.BigEndian.Uint16(got[6:]), binary.BigEndian.Uint32(got[16:])
		if uint64(length) > uint64(len(got)-20) {
			t.Fatalf("chunk of %d bytes, %d are there", length, len(got)-20)
		}
		checkChunk(t, kind, got[20:20+length])
		got = got[20+length:]
	}
}

func checkChunk(t *testing.T, kind uint16, p []byte) {
	switch kind {
	case replyNone:
		if len(p) != 0 {
			t.Fatalf("empty chunk of %d bytes", len(p))
		}
	case replyOffsetData:
		if len(p) < 9 || binary.BigEndian.Uint64(p)+uint64(len(p)-8) > fuzzSize {
			t.Fatalf("data chunk of %d bytes", len(p))
		}
	case replyOffsetHole:
		if len(p) != 12 || binary.BigEndian.Uint64(p)+uint64(binary.BigEndian.Uint32(p[8:])) > fuzzSize {
			t.Fatalf("hole chunk %x", p)
		}
	case replyBlockStatus:
		sum := uint64(0)
		for d := p[4:]; len(d) > 0; d = d[8:] {
			sum += uint64(binary.BigEndian.Uint32(d))
		}
		if len(p) < 12 || sum == 0 || sum > fuzzSize {
			t.Fatalf("block status of %d bytes: %d bytes of disk", len(p), sum)
		}
	case replyError:
		if len(p) != 6 || binary.BigEndian.Uint32(p) == 0 {
			t.Fatalf("error chunk %x", p)
		}
	default:
		t.Fatalf("chunk of type %d", kind)
	}
}

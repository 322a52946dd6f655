package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"hyper2kvm/formats"
)

// send writes the parts of one reply in one go.
func (c *conn) send(parts ...[]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.nc.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
		return err
	}
	bufs := net.Buffers(parts)
	_, err := bufs.WriteTo(c.nc)
	return err
}

// chunk is the header of a structured reply with this many bytes of payload.
func chunk(q *request, flags, kind uint16, payload int) []byte {
	b := make([]byte, 0, structuredOverhead+16)
	b = binary.BigEndian.AppendUint32(b, magicStructured)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, q.cookie)
	return binary.BigEndian.AppendUint32(b, uint32(payload))
}

func simple(q *request, errno uint32) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 16), magicSimple)
	b = binary.BigEndian.AppendUint32(b, errno)
	return binary.BigEndian.AppendUint64(b, q.cookie)
}

// needsChunks reports whether a reply must be structured. Only those of reads
// and block status must be; the others may be simple, which is shorter.
func (c *conn) needsChunks(q *request) bool {
	return c.structured && (q.kind == cmdRead || q.kind == cmdBlockStatus)
}

func (c *conn) sendDone(q *request) error { return c.send(simple(q, 0)) }

func (c *conn) sendError(q *request, errno uint32) error {
	if !c.needsChunks(q) {
		return c.send(simple(q, errno))
	}
	b := chunk(q, replyFlagDone, replyError, 6)
	b = binary.BigEndian.AppendUint32(b, errno)
	return c.send(binary.BigEndian.AppendUint16(b, 0)) // no message
}

// inOnePiece reports whether a read is answered with one buffer.
func (c *conn) inOnePiece(q *request) bool {
	return !c.structured || q.flags&cmdFlagDF != 0 || q.length < minHole
}

// read answers NBD_CMD_READ: with one buffer, or in chunks that leave holes out.
func (c *conn) read(ctx context.Context, q *request) error {
	if c.inOnePiece(q) {
		return c.readWhole(q)
	}
	end := q.start() + q.len()
	for off := q.start(); off < end; {
		if ctx.Err() != nil {
			return c.sendError(q, errnoShutdown)
		}
		hole, n, err := c.piece(off, end-off)
		if err != nil {
			return c.sendError(q, c.errno(q, "map", err))
		}
		var flags uint16
		if off+n == end {
			flags = replyFlagDone
		}
		if hole {
			b := binary.BigEndian.AppendUint64(chunk(q, flags, replyOffsetHole, 12), uint64(off))
			err = c.send(binary.BigEndian.AppendUint32(b, uint32(n)))
		} else {
			p := make([]byte, n)
			if err := readFull(c.export.Disk, p, off); err != nil {
				return c.sendError(q, c.errno(q, "read", err))
			}
			b := binary.BigEndian.AppendUint64(chunk(q, flags, replyOffsetData, 8+len(p)), uint64(off))
			err = c.send(b, p)
		}
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

// maxChunk bounds the data chunks of a reply, in bytes, so that the client has
// the first of a long one while the next is read.
const maxChunk = 1 << 20

// piece gives the next chunk of a read: a hole, or data in which holes too
// small to be told lie as well.
func (c *conn) piece(off, limit int64) (hole bool, n int64, err error) {
	for n < limit && n < maxChunk {
		e, err := c.export.Disk.Extent(off+n, limit-n)
		if err != nil {
			return false, 0, err
		}
		if e.Length < 1 || e.Length > limit-n {
			return false, 0, fmt.Errorf("extent of %d bytes at %d: %w", e.Length, off+n, formats.ErrCorrupt)
		}
		if e.Kind == formats.Zero && e.Length >= minHole {
			if n == 0 {
				return true, e.Length, nil
			}
			break
		}
		n += e.Length
	}
	return false, min(n, maxChunk), nil
}

// readWhole answers a read with all its bytes in one piece.
func (c *conn) readWhole(q *request) error {
	p := make([]byte, q.length)
	if err := readFull(c.export.Disk, p, q.start()); err != nil {
		return c.sendError(q, c.errno(q, "read", err))
	}
	if !c.structured {
		return c.send(simple(q, 0), p)
	}
	if len(p) == 0 {
		return c.send(chunk(q, replyFlagDone, replyNone, 0))
	}
	b := chunk(q, replyFlagDone, replyOffsetData, 8+len(p))
	return c.send(binary.BigEndian.AppendUint64(b, q.off), p)
}

func readFull(d formats.Disk, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// blockStatus answers NBD_CMD_BLOCK_STATUS with what the extents say.
func (c *conn) blockStatus(q *request) error {
	most := maxDescriptors
	if q.flags&cmdFlagReqOne != 0 {
		most = 1
	}
	list, err := c.descriptors(q.start(), q.len(), most)
	if err != nil {
		return c.sendError(q, c.errno(q, "map", err))
	}
	b := chunk(q, replyFlagDone, replyBlockStatus, 4+8*len(list))
	b = binary.BigEndian.AppendUint32(b, contextID)
	for _, d := range list {
		b = binary.BigEndian.AppendUint32(b, d.length)
		b = binary.BigEndian.AppendUint32(b, d.state)
	}
	return c.send(b)
}

// descriptor is a run of one state.
type descriptor struct{ length, state uint32 }

// descriptors describes a range from its begin on, in at most most runs; what
// is left over the client asks for again.
func (c *conn) descriptors(off, length int64, most int) ([]descriptor, error) {
	var out []descriptor
	// Runs that go together are merged, which must not take for ever either.
	for looks := 0; length > 0 && (looks < maxDescriptors || len(out) == 0); looks++ {
		e, err := c.export.Disk.Extent(off, length)
		if err != nil {
			return nil, err
		}
		if e.Length < 1 || e.Length > length {
			return nil, fmt.Errorf("extent of %d bytes at %d: %w", e.Length, off, formats.ErrCorrupt)
		}
		var state uint32
		if e.Kind == formats.Zero {
			state = stateHole | stateZero
		}
		if last := len(out) - 1; last >= 0 && out[last].state == state {
			out[last].length += uint32(e.Length)
		} else if len(out) == most {
			break
		} else {
			out = append(out, descriptor{uint32(e.Length), state})
		}
		off, length = off+e.Length, length-e.Length
	}
	return out, nil
}

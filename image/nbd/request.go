package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// request is one command of the client.
type request struct {
	flags  uint16
	kind   uint16
	cookie uint64
	off    uint64
	length uint32
	data   []byte // of a write
}

func (q *request) start() int64 { return int64(q.off) }
func (q *request) len() int64   { return int64(q.length) }

// transmit works on requests until the client leaves, in parallel, and waits
// for those it began.
func (c *conn) transmit(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := semaphore.NewWeighted(maxParallel)
	for {
		q, err := c.readRequest()
		if err != nil || q.kind == cmdDisc || slots.Acquire(ctx, 1) != nil {
			return
		}
		hold, errno, err := c.admit(ctx, q)
		if err != nil {
			return
		}
		wg.Go(func() {
			defer slots.Release(1)
			defer c.server.memory.Release(hold)
			// When a reply cannot be sent the client is gone; reading the next
			// request will say so too.
			if errno != 0 {
				_ = c.sendError(q, errno)
			} else if c.work(ctx, q) != nil {
				c.nc.Close()
			}
		})
	}
}

func (c *conn) readRequest() (*request, error) {
	var b [28]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(b[:]) != magicRequest {
		return nil, fmt.Errorf("magic of request: %w", errProtocol)
	}
	return &request{
		flags: binary.BigEndian.Uint16(b[4:]), kind: binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]), off: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// admit decides whether a request is worked on, or answered with errno, takes
// the memory for it, and reads the data of a write in any case.
func (c *conn) admit(ctx context.Context, q *request) (hold int64, errno uint32, err error) {
	errno = c.check(q)
	if errno == 0 && (q.kind == cmdRead || q.kind == cmdWrite) {
		hold = q.len()
		if q.kind == cmdRead && !c.inOnePiece(q) {
			hold = min(hold, maxChunk)
		}
	}
	if err := c.server.memory.Acquire(ctx, hold); err != nil {
		return 0, 0, err
	}
	if q.kind == cmdWrite {
		if err := c.readData(q, errno == 0); err != nil {
			c.server.memory.Release(hold)
			return 0, 0, err
		}
	}
	return hold, errno, nil
}

// readData reads what follows a write, to keep or to drop it.
func (c *conn) readData(q *request, keep bool) error {
	if err := c.nc.SetReadDeadline(time.Now().Add(stallTime)); err != nil {
		return err
	}
	if keep {
		q.data = make([]byte, q.length)
		if _, err := io.ReadFull(c.r, q.data); err != nil {
			return err
		}
	} else if _, err := io.CopyN(io.Discard, c.r, q.len()); err != nil {
		return err
	}
	return c.nc.SetReadDeadline(time.Time{})
}

// flagsOf gives the command flags that a command may have.
func flagsOf(kind uint16) (flags uint16, known bool) {
	switch kind {
	case cmdRead:
		return cmdFlagDF | cmdFlagFUA, true // FUA has no meaning where nothing is written, and does no harm
	case cmdWrite, cmdTrim, cmdFlush:
		return cmdFlagFUA, true
	case cmdWriteZeroes:
		return cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero, true
	case cmdBlockStatus:
		return cmdFlagReqOne | cmdFlagFUA, true
	}
	return 0, false
}

// check gives the errno of a request that is not to be worked on, 0 for one
// that is.
func (c *conn) check(q *request) uint32 {
	flags, known := flagsOf(q.kind)
	size := uint64(c.export.Disk.Size())
	outside := q.off > size || uint64(q.length) > size-q.off
	writes := q.kind == cmdWrite || q.kind == cmdTrim || q.kind == cmdWriteZeroes
	switch {
	case !known, q.flags&^flags != 0, q.flags&cmdFlagDF != 0 && !c.structured:
		return errnoInvalid
	case writes && c.export.Writer == nil:
		return errnoPerm
	case q.kind == cmdFlush:
		return 0
	case outside && (q.kind == cmdWrite || q.kind == cmdWriteZeroes):
		return errnoNoSpace
	case outside:
		return errnoInvalid
	case (q.kind == cmdRead || q.kind == cmdWrite) && q.length > maxRequest:
		return errnoOverflow
	case q.kind == cmdBlockStatus && (c.metaFor != c.export || q.length == 0):
		return errnoInvalid
	}
	return 0
}

// work does what a request asks and replies; an error is one of sending.
func (c *conn) work(ctx context.Context, q *request) error {
	switch q.kind {
	case cmdRead:
		return c.read(ctx, q)
	case cmdBlockStatus:
		return c.blockStatus(q)
	}
	if errno := c.change(q); errno != 0 {
		return c.sendError(q, errno)
	}
	return c.sendDone(q)
}

// change does the requests that write, and gives their errno.
func (c *conn) change(q *request) uint32 {
	w := c.export.Writer
	if w == nil {
		return 0 // a flush of what nobody can write
	}
	var err error
	action := "write"
	switch q.kind {
	case cmdWrite:
		_, err = w.WriteAt(q.data, q.start())
	case cmdTrim:
		action, err = "discard", w.Trim(q.start(), q.len())
	case cmdWriteZeroes:
		action, err = "zero", w.Zero(q.start(), q.len())
	}
	if err == nil && (q.kind == cmdFlush || q.flags&cmdFlagFUA != 0) {
		action, err = "sync after writing", w.Sync()
	}
	return c.errno(q, action, err)
}

// errno notes an error of the disk and gives what the client is told.
func (c *conn) errno(q *request, action string, err error) uint32 {
	if err == nil {
		return 0
	}
	c.server.failed(c.export, action, q.start(), q.len(), err)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errnoNoSpace
	}
	return errnoIO
}

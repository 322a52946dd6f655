package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
)

// Bounds of what a server can make the client hold or do.
const (
	// maxStatus is how long the reply to a block status may be, in bytes. QEMU
	// sends up to 1 MiB, nbdkit up to 8 MiB.
	maxStatus = 16 << 20
	// maxRuns is how many runs of one such reply are kept; what lies behind them
	// is asked for again.
	maxRuns = 32 << 10
	// maxGaps is how scattered the chunks of a read may arrive.
	maxGaps = 1024
	// maxErrors is how many error chunks one reply may have.
	maxErrors = 16
)

// errnoError is what a server answers to a request that it could not do.
type errnoError struct {
	errno   uint32
	message string
}

func (e *errnoError) Error() string {
	text := unix.Errno(e.errno).Error() // the protocol's numbers are Linux's
	if e.message != "" {
		text += fmt.Sprintf(" (%q)", e.message)
	}
	return "NBD server answers: " + text
}

// run is a stretch of one kind, up to end.
type run struct {
	end  int64
	kind formats.Kind
}

// call is a request that waits for its reply. While it is in a link's list
// only the receiving goroutine touches what is below done.
type call struct {
	kind uint16
	off  int64
	buf  []byte // of a read: takes the bytes
	span int64  // bytes asked for

	done   chan struct{} // closed when all below is final
	got    spans
	runs   []run // of a block status
	errors int
	err    error
}

// link is a connection on which requests and replies travel.
type link struct {
	nc    net.Conn
	r     *bufio.Reader
	offer offer
	ended chan struct{} // closed when the receiving goroutine has ended

	writing sync.Mutex

	mu     sync.Mutex
	calls  map[uint64]*call
	cookie uint64
	err    error // why the link is of no use any more
}

// newLink starts to receive on a connection that is negotiated. The goroutine
// ends when the connection is closed.
func newLink(g *greeter) *link {
	l := &link{nc: g.nc, r: g.r, offer: g.offer, ended: make(chan struct{}), calls: map[uint64]*call{}}
	go l.receive()
	return l
}

// close says goodbye and waits for the receiving goroutine.
func (l *link) close() {
	if l.nc.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_ = l.send(request{kind: cmdDisc}) // the server may be gone already
	}
	l.fail(ErrClosed)
	<-l.ended
}

// fail ends the link; the first reason counts.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	l.nc.Close()
}

// dead gives why the link is of no use, nil for one that works.
func (l *link) dead() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// do sends a request and waits for its reply, for at most as long as given.
func (l *link) do(c *call, patience time.Duration) error {
	cookie, err := l.enlist(c)
	if err != nil {
		return err
	}
	err = l.nc.SetWriteDeadline(time.Now().Add(patience))
	if err == nil {
		err = l.send(request{kind: c.kind, cookie: cookie, off: uint64(c.off), length: uint32(c.span)})
	}
	if err != nil {
		l.fail(fmt.Errorf("send request: %w", err))
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		l.fail(fmt.Errorf("no whole answer within %v: %w", patience, unix.ETIMEDOUT))
		<-c.done // the receiver may be filling the buffer
	}
	return c.err
}

// enlist gives a call its cookie.
func (l *link) enlist(c *call) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	l.cookie++
	c.done, c.got, c.runs, c.errors, c.err = make(chan struct{}), nil, nil, 0, nil
	l.calls[l.cookie] = c
	return l.cookie, nil
}

func (l *link) send(q request) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 28), magicRequest)
	b = binary.BigEndian.AppendUint16(b, q.flags)
	b = binary.BigEndian.AppendUint16(b, q.kind)
	b = binary.BigEndian.AppendUint64(b, q.cookie)
	b = binary.BigEndian.AppendUint64(b, q.off)
	b = binary.BigEndian.AppendUint32(b, q.length)
	l.writing.Lock()
	defer l.writing.Unlock()
	_, err := l.nc.Write(b)
	return err
}

// receive takes replies until the connection ends; then all who wait are told.
func (l *link) receive() {
	defer close(l.ended)
	var err error
	for err == nil {
		err = l.reply()
	}
	l.fail(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	for cookie, c := range l.calls {
		c.err = l.err
		delete(l.calls, cookie)
		close(c.done)
	}
}

// find gives the call that a reply is for.
func (l *link) find(cookie uint64) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[cookie]
	if c == nil {
		return nil, fmt.Errorf("reply to request %d, which waits for none: %w", cookie, ErrProtocol)
	}
	return c, nil
}

// finish hands a call back to who waits for it.
func (l *link) finish(cookie uint64, c *call) {
	l.mu.Lock()
	delete(l.calls, cookie)
	l.mu.Unlock()
	close(c.done)
}

// reply takes one reply, or one chunk of one.
func (l *link) reply() error {
	var head [20]byte
	if _, err := io.ReadFull(l.r, head[:16]); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	c, err := l.find(binary.BigEndian.Uint64(head[8:]))
	if err != nil {
		return err
	}
	switch magic := binary.BigEndian.Uint32(head[:]); {
	case magic == magicSimple && (!l.offer.structured || c.kind == cmdBlockStatus):
		return l.simple(binary.BigEndian.Uint64(head[8:]), c, binary.BigEndian.Uint32(head[4:]))
	case magic == magicStructured && l.offer.structured:
		if _, err := io.ReadFull(l.r, head[16:]); err != nil {
			return fmt.Errorf("read reply: %w", err)
		}
	default:
		return fmt.Errorf("reply %x: %w", head[:16], ErrProtocol)
	}
	if err := l.chunk(c, binary.BigEndian.Uint16(head[6:]), binary.BigEndian.Uint32(head[16:])); err != nil {
		return err
	}
	if binary.BigEndian.Uint16(head[4:])&replyFlagDone == 0 {
		return nil
	}
	if c.err == nil && !c.whole() {
		return fmt.Errorf("reply to request of %d bytes at %d is not whole: %w", c.span, c.off, ErrProtocol)
	}
	l.finish(binary.BigEndian.Uint64(head[8:]), c)
	return nil
}

// simple takes the rest of a simple reply.
func (l *link) simple(cookie uint64, c *call, errno uint32) error {
	if errno != 0 {
		c.err = &errnoError{errno: errno}
	} else if c.kind != cmdRead {
		return fmt.Errorf("block status without a status: %w", ErrProtocol)
	} else if _, err := io.ReadFull(l.r, c.buf); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	l.finish(cookie, c)
	return nil
}

// chunk takes the payload of a chunk.
func (l *link) chunk(c *call, kind uint16, length uint32) error {
	switch {
	case kind == replyNone && length == 0:
		return nil
	case kind == replyOffsetData && length > 8:
		return l.data(c, int64(length-8), false)
	case kind == replyOffsetHole && length == 12:
		return l.data(c, 0, true)
	case kind == replyBlockStatus && length >= 12 && length%8 == 4 && length <= maxStatus:
		return l.status(c, int(length-4)/8)
	case kind&replyErrorBit != 0 && length >= 6 && length <= maxOption:
		return l.errorChunk(c, int(length))
	}
	return fmt.Errorf("chunk of type %d and %d bytes: %w", kind, length, ErrProtocol)
}

// data takes bytes of a read, or a hole in it.
func (l *link) data(c *call, n int64, hole bool) error {
	var b [12]byte
	head := b[:8]
	if hole {
		head = b[:]
	}
	if _, err := io.ReadFull(l.r, head); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	if hole {
		n = int64(binary.BigEndian.Uint32(b[8:]))
	}
	// Below zero where it lies before the request, or far beyond what a disk has.
	at := int64(binary.BigEndian.Uint64(b[:])) - c.off
	if c.kind != cmdRead || n == 0 || at < 0 || at > int64(len(c.buf)) || n > int64(len(c.buf))-at || !c.got.add(at, at+n) {
		return fmt.Errorf("%d bytes at %d of a request of %d at %d: %w", n, c.off+at, c.span, c.off, ErrProtocol)
	}
	if hole {
		clear(c.buf[at : at+n])
		return nil
	}
	if _, err := io.ReadFull(l.r, c.buf[at:at+n]); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	return nil
}

// status takes the descriptors of a block status.
func (l *link) status(c *call, count int) error {
	var b [8]byte
	if _, err := io.ReadFull(l.r, b[:4]); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	if id := binary.BigEndian.Uint32(b[:]); c.kind != cmdBlockStatus || id != l.offer.context || c.runs != nil {
		return fmt.Errorf("block status of context %d: %w", id, ErrProtocol)
	}
	at, end := c.off, c.off+c.span
	for range count {
		if _, err := io.ReadFull(l.r, b[:]); err != nil {
			return fmt.Errorf("read reply: %w", err)
		}
		n := int64(binary.BigEndian.Uint32(b[:]))
		if n == 0 {
			return fmt.Errorf("block status of no bytes: %w", ErrProtocol)
		}
		if at >= end || len(c.runs) == maxRuns {
			continue // the last may reach beyond the request; nothing may follow it that counts
		}
		at = min(at+n, end)
		c.runs = appendRun(c.runs, run{end: at, kind: kindOf(binary.BigEndian.Uint32(b[4:]))})
	}
	return nil
}

// kindOf is what a state means for who reads: a hole that does not promise
// zeroes must be read.
func kindOf(state uint32) formats.Kind {
	if state&stateZero != 0 {
		return formats.Zero
	}
	return formats.Data
}

func appendRun(runs []run, r run) []run {
	if n := len(runs); n > 0 && runs[n-1].kind == r.kind {
		runs[n-1].end = r.end
		return runs
	}
	return append(runs, r)
}

// errorChunk takes an error; the first of a reply counts.
func (l *link) errorChunk(c *call, length int) error {
	b := make([]byte, length)
	if _, err := io.ReadFull(l.r, b); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	errno, n := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))
	if c.errors++; errno == 0 || n > length-6 || c.errors > maxErrors {
		return fmt.Errorf("error chunk %x: %w", b[:6], ErrProtocol)
	}
	if c.err == nil {
		c.err = &errnoError{errno: errno, message: string(b[6 : 6+min(n, maxString)])}
	}
	return nil
}

// whole reports whether all that was asked for has come.
func (c *call) whole() bool {
	if c.kind == cmdBlockStatus {
		return len(c.runs) > 0
	}
	return len(c.got) == 1 && c.got[0] == span{0, c.span}
}

// span is the bytes from..to.
type span struct{ from, to int64 }

// spans are separate spans in order.
type spans []span

// add adds bytes; it reports false where some are there already, or where there
// are too many gaps.
func (s *spans) add(from, to int64) bool {
	list := *s
	i, found := slices.BinarySearchFunc(list, from, func(x span, at int64) int {
		switch {
		case x.to <= at:
			return -1
		case x.from > at:
			return 1
		}
		return 0
	})
	if found || i < len(list) && list[i].from < to || len(list) > maxGaps {
		return false
	}
	after := i < len(list) && list[i].from == to
	before := i > 0 && list[i-1].to == from
	switch {
	case before && after:
		list[i-1].to = list[i].to
		list = slices.Delete(list, i, i+1)
	case before:
		list[i-1].to = to
	case after:
		list[i].from = from
	default:
		list = slices.Insert(list, i, span{from, to})
	}
	*s = list
	return true
}

// isFinal reports whether an error stays when the request is tried again on
// another connection.
func isFinal(err error) bool {
	if answer, ok := errors.AsType[*errnoError](err); ok {
		return answer.errno != errnoShutdown
	}
	return slices.ContainsFunc([]error{ErrProtocol, ErrNoExport, ErrTLS, ErrChanged, ErrClosed}, func(final error) bool {
		return errors.Is(err, final)
	})
}

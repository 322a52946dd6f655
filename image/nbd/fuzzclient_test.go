package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"hyper2kvm/formats/formatstest"
)

// actor is a server that has made up its mind: after the handshake each request
// gets the next part of its lines, whatever was asked.
type actor struct {
	mu    sync.Mutex
	ready *sync.Cond
	lines []byte // what it says next: of the handshake, all
	queue []byte // parts for the requests to come, each with its length in 16 bits
	begun bool   // the handshake is over
	gone  bool
}

func newActor(handshake, queue []byte) *actor {
	a := &actor{lines: handshake, queue: queue}
	a.ready = sync.NewCond(&a.mu)
	return a
}

func (a *actor) Read(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.lines) == 0 && a.begun && !a.gone {
		a.ready.Wait()
	}
	if len(a.lines) == 0 {
		return 0, io.EOF
	}
	n := copy(p, a.lines)
	a.lines = a.lines[n:]
	return n, nil
}

func (a *actor) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(p) != 28 || binary.BigEndian.Uint32(p) != magicRequest {
		return len(p), nil
	}
	a.begun = true
	if len(a.queue) < 2 {
		a.gone = true // with all it had to say
	} else {
		n := min(int(binary.BigEndian.Uint16(a.queue)), len(a.queue)-2)
		a.lines = append(a.lines, a.queue[2:2+n]...)
		a.queue = a.queue[2+n:]
	}
	a.ready.Broadcast()
	return len(p), nil
}

func (a *actor) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone, a.lines = true, nil
	a.ready.Broadcast()
	return nil
}

func (a *actor) LocalAddr() net.Addr              { return nil }
func (a *actor) RemoteAddr() net.Addr             { return nil }
func (a *actor) SetReadDeadline(time.Time) error  { return nil }
func (a *actor) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is lifted at the end of the handshake.
func (a *actor) SetDeadline(t time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun = t.IsZero()
	return nil
}

var errNoMore = errors.New("no further connection")

// FuzzReplies: whatever a server says, there is an error or a disk that keeps
// the contract, in bounded time and memory.
func FuzzReplies(f *testing.F) {
	hello := serverHello(fuzzSize, true)
	f.Add(hello, part(status(1, 0, fuzzSize, 3)))
	f.Add(hello, append(part(status(1, 0, 65536, 0)), part(dataChunk(2, 0, make([]byte, 65536)))...))
	f.Add(hello, append(part(status(1, 0, 65536, 0)), part(holeChunk(2, 0, 65536))...))
	f.Add(hello, append(part(status(1, 0, 8, 0)), part(errorReply(2, 5))...))
	f.Add(serverHello(fuzzSize, false), part(append(simple(&request{cookie: 1}, 0), make([]byte, 4096)...)))
	f.Add(serverHello(1<<62, true), part(status(1, 0, 1<<32-1, 0)))
	f.Fuzz(func(t *testing.T, handshake, queue []byte) {
		first := newActor(handshake, queue)
		set := settings{patience: 20 * time.Millisecond, attempts: 2, dial: func(time.Duration) (net.Conn, error) {
			if first == nil {
				return nil, errNoMore
			}
			a := first
			first = nil
			return a, nil
		}}
		c, err := dialWith(Address{Network: "unix", Host: "x"}, nil, set)
		if err != nil {
			return
		}
		defer c.Close()
		c.width.Store(1)
		if err := formatstest.Every(c, 256<<10); errors.Is(err, formatstest.ErrBroken) {
			t.Error(err)
		}
	})
}

// serverHello is a good handshake.
func serverHello(size uint64, structured bool) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicServer)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	rep := func(opt, kind uint32, data []byte) {
		b = binary.BigEndian.AppendUint64(b, magicReply)
		b = binary.BigEndian.AppendUint32(b, opt)
		b = binary.BigEndian.AppendUint32(b, kind)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
	}
	if structured {
		rep(optStructuredReply, repAck, nil)
		rep(optSetMeta, repMetaContext, append([]byte{0, 0, 0, 1}, contextName...))
		rep(optSetMeta, repAck, nil)
	} else {
		rep(optStructuredReply, repErrUnsup, []byte("no"))
	}
	info := binary.BigEndian.AppendUint64([]byte{0, infoExport}, size)
	rep(optGo, repInfo, binary.BigEndian.AppendUint16(info, flagHasFlags|flagReadOnly))
	rep(optGo, repInfo, append([]byte{0, infoBlockSize}, bytes.Repeat([]byte{0, 0, 16, 0}, 3)...))
	rep(optGo, repAck, nil)
	return b
}

func part(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }

func status(cookie uint64, off uint64, length, state uint32) []byte {
	b := binary.BigEndian.AppendUint32(chunk(&request{cookie: cookie, off: off}, replyFlagDone, replyBlockStatus, 12), contextID)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, length), state)
}

func dataChunk(cookie, off uint64, p []byte) []byte {
	b := chunk(&request{cookie: cookie}, replyFlagDone, replyOffsetData, 8+len(p))
	return append(binary.BigEndian.AppendUint64(b, off), p...)
}

func holeChunk(cookie, off uint64, n uint32) []byte {
	b := chunk(&request{cookie: cookie}, replyFlagDone, replyOffsetHole, 12)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, off), n)
}

func errorReply(cookie uint64, errno uint32) []byte {
	b := chunk(&request{cookie: cookie}, replyFlagDone, replyError, 6)
	return append(binary.BigEndian.AppendUint32(b, errno), 0, 0)
}

// TestHostileReplies: each breach is an error of its own kind, told at once.
func TestHostileReplies(t *testing.T) {
	const size = 64 << 10
	for what, x := range map[string]struct {
		handshake, reply []byte
		at               int64
	}{
		"size beyond what a disk can have": {handshake: serverHello(1<<63, true)},
		"reply to nothing":                 {reply: dataChunk(7, 0, make([]byte, 4096))},
		"data before the request":          {reply: dataChunk(1, 0, make([]byte, 4096)), at: 8192},
		"data behind the request":          {reply: dataChunk(1, 4096, make([]byte, 4096))},
		"more data than asked for":         {reply: dataChunk(1, 0, make([]byte, 8192))},
		"data twice":                       {reply: append(notDone(dataChunk(1, 0, make([]byte, 512))), dataChunk(1, 0, make([]byte, 4096))...)},
		"less data than asked for":         {reply: dataChunk(1, 0, make([]byte, 512))},
		"hole that wraps around":           {reply: holeChunk(1, 1<<64-4096, 8192)},
		"hole of nothing":                  {reply: holeChunk(1, 0, 0)},
		"done without data":                {reply: chunk(&request{cookie: 1}, replyFlagDone, replyNone, 0)},
		"status in place of data":          {reply: status(1, 0, 4096, 0)},
		"simple reply":                     {reply: simple(&request{cookie: 1}, 0)},
		"unknown chunk":                    {reply: chunk(&request{cookie: 1}, replyFlagDone, 99, 0)},
		"chunk of 4 GiB":                   {reply: binary.BigEndian.AppendUint64(chunk(&request{cookie: 1}, replyFlagDone, replyOffsetData, 1<<32-1), 0)},
		"error without a number":           {reply: errorReply(1, 0)},
	} {
		if x.handshake == nil {
			x.handshake = serverHello(size, true)
		}
		dialled := false
		c, err := dialWith(Address{}, nil, settings{patience: 10 * time.Second, attempts: 3, dial: func(time.Duration) (net.Conn, error) {
			if dialled {
				return nil, errNoMore
			}
			dialled = true
			return newActor(x.handshake, part(x.reply)), nil
		}})
		if err == nil {
			_, err = c.ReadAt(make([]byte, 4096), x.at)
			c.Close()
		}
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// notDone takes the flag off that says that a chunk is the last.
func notDone(b []byte) []byte {
	b[5] = 0
	return b
}

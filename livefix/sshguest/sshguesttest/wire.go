package sshguesttest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Wire is a network between here and a server that breaks when it is told to,
// or once a number of bytes, both directions together, has passed.
type Wire struct {
	listener net.Listener
	to       string
	passed   atomic.Int64
	most     atomic.Int64 // 0 does not break
	delay    atomic.Int64 // nanoseconds, each way
	mu       sync.Mutex
	conns    []net.Conn
}

// NewWire leads to an address.
func NewWire(t testing.TB, to string) *Wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{listener: l, to: to}
	t.Cleanup(func() { _ = l.Close(); w.Cut() })
	go w.serve()
	return w
}

// Port is where it begins.
func (w *Wire) Port() int { return w.listener.Addr().(*net.TCPAddr).Port }

// Passed is how many bytes went through since BreakAfter.
func (w *Wire) Passed() int64 { return w.passed.Load() }

// BreakAfter makes the network whole, to break after so many bytes; 0 is never.
func (w *Wire) BreakAfter(n int64) {
	w.Cut()
	w.passed.Store(0)
	w.most.Store(n)
}

// Delay makes everything arrive later by so much, each way.
func (w *Wire) Delay(d time.Duration) { w.delay.Store(int64(d)) }

// Cut breaks every connection.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

func (w *Wire) serve() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		go w.carry(near, far)
		go w.carry(far, near)
	}
}

// late is what was sent, and when it arrives.
type late struct {
	at   time.Time
	data []byte
}

// slow carries what it is told to after the delay, in order.
func (w *Wire) slow(to net.Conn) io.WriteCloser {
	queue := make(chan late, 4096)
	go func() {
		for l := range queue {
			time.Sleep(time.Until(l.at))
			if _, err := to.Write(l.data); err != nil {
				_ = to.Close() // what is queued is lost with it
			}
		}
		if c, ok := to.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
	}()
	return &queued{w, queue}
}

type queued struct {
	wire  *Wire
	queue chan late
}

func (q *queued) Write(p []byte) (int, error) {
	q.queue <- late{time.Now().Add(time.Duration(q.wire.delay.Load())), bytes.Clone(p)}
	return len(p), nil
}

func (q *queued) Close() error {
	close(q.queue)
	return nil
}

func (w *Wire) carry(from, to net.Conn) {
	if w.delay.Load() > 0 {
		slow := w.slow(to)
		_, _ = io.Copy(slow, from)
		_ = slow.Close()
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		over := w.passed.Add(int64(n)) - w.most.Load()
		if w.most.Load() > 0 && over > 0 {
			// What still fits arrives, the rest is lost.
			_, _ = to.Write(buf[:max(0, int64(n)-over)])
			_, _ = from.Close(), to.Close()
			return
		}
		_, writeErr := to.Write(buf[:n])
		if writeErr == nil && err == nil {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			_ = to.Close()
		}
		if c, ok := to.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
		return
	}
}

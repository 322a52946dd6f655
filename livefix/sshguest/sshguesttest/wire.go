package sshguesttest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Wire is a network between here and a server that breaks when it is told to,
// or once a number of bytes, both directions together, has passed.
type Wire struct {
	listener net.Listener
	to       string
	passed   atomic.Int64
	most     atomic.Int64 // 0 does not break
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

func (w *Wire) carry(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		over := w.passed.Add(int64(n)) - w.most.Load()
		if w.most.Load() > 0 && over > 0 {
			// What still fits arrives, the rest is lost.
			_, _ = to.Write(buf[:max(0, int64(n)-over)])
			w.Cut()
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

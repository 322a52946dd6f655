// Package nbd speaks the Network Block Device protocol: it serves disks, and
// reads those that others serve. Both sides know fixed newstyle negotiation,
// TLS, structured replies, and the "base:allocation" context, so that what is
// empty is neither read nor copied.
//
// Neither side trusts the other: sizes are bounded, a slow peer is cut off, and
// nothing that a client sends ends the server.
package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"hyper2kvm/formats"
)

// Writer is the writable side of an export.
type Writer interface {
	WriteAt(p []byte, off int64) (int, error)
	Zeroer
	// Sync brings all writes that returned before to stable storage.
	Sync() error
}

// Zeroer empties ranges. Whether zeroes take space is its own matter: a thin
// disk promises none, so that NBD_CMD_FLAG_NO_HOLE asks it for nothing.
type Zeroer interface {
	Zero(off, length int64) error
	Trim(off, length int64) error
}

// Export is one disk on offer.
type Export struct {
	// Name is what a client asks for. A client that asks for "" gets the export
	// with that name, or else the first one.
	Name        string
	Description string
	Disk        formats.Disk
	// Writer takes the writes; nil makes the export read only.
	Writer Writer
}

// Bounds of what a server uses.
const (
	// maxInFlight is how much the requests of all clients may hold in memory,
	// in bytes.
	maxInFlight = 128 << 20
	// maxParallel is how many requests of a client are worked on at once.
	maxParallel = 16
	// maxClients is how many may be connected.
	maxClients = 256
	// handshakeTime is how long a negotiation may take.
	handshakeTime = 30 * time.Second
	// stallTime is how long a client may take to send the rest of a request it
	// began, or to take a reply. It holds memory meanwhile.
	stallTime = 2 * time.Minute
)

// server is one call of Serve.
type server struct {
	exports []Export
	tls     *tls.Config         // nil serves in the clear
	memory  *semaphore.Weighted // of maxInFlight bytes
	clients *semaphore.Weighted // of maxClients

	mu      sync.Mutex
	diskErr error // the first error that a disk gave
}

func newServer(exports []Export) *server {
	return &server{exports: exports, memory: semaphore.NewWeighted(maxInFlight), clients: semaphore.NewWeighted(maxClients)}
}

// Serve answers clients on l until ctx ends; then it closes l and all
// connections, waits for the requests being worked on, and returns. What a
// client does is never an error of Serve. What goes wrong with a disk is told
// to the client as an errno, which says little: the first such error is what
// Serve returns at its end, else nil.
func Serve(ctx context.Context, l net.Listener, exports []Export) error {
	return ServeTLS(ctx, l, nil, exports)
}

// ServeTLS is Serve for clients that encrypt: others learn nothing but that
// they must. With a nil cfg it is Serve.
func ServeTLS(ctx context.Context, l net.Listener, cfg *tls.Config, exports []Export) error {
	s := newServer(exports)
	s.tls = cfg
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	err := s.accept(ctx, l, &wg)
	l.Close()
	wg.Wait()
	return errors.Join(err, s.diskErr)
}

// accept starts a goroutine for each client.
func (s *server) accept(ctx context.Context, l net.Listener, wg *sync.WaitGroup) error {
	for {
		if s.clients.Acquire(ctx, 1) != nil {
			return nil
		}
		nc, err := l.Accept()
		if err != nil {
			s.clients.Release(1)
			if ctx.Err() != nil {
				return nil
			}
			if !isTemporary(err) {
				return fmt.Errorf("accept NBD client: %w", err)
			}
			pause(ctx, 50*time.Millisecond)
			continue
		}
		wg.Go(func() {
			defer s.clients.Release(1)
			s.serveConn(ctx, nc)
		})
	}
}

// isTemporary reports whether accepting may work again in a moment: no
// descriptor was free, or the client was gone already.
func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// serveConn serves one client until it leaves, misbehaves, or ctx ends.
func (s *server) serveConn(ctx context.Context, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	c := newConn(s, nc)
	defer func() { c.nc.Close() }() // TLS may have taken the place of nc
	if err := nc.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return
	}
	if c.negotiate() != nil || c.export == nil {
		return
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return
	}
	c.transmit(ctx)
}

// find gives the export that a client asks for, nil when there is none.
func (s *server) find(name string) *Export {
	for i := range s.exports {
		if s.exports[i].Name == name {
			return &s.exports[i]
		}
	}
	if name == "" && len(s.exports) > 0 {
		return &s.exports[0]
	}
	return nil
}

// failed notes the first error of a disk.
func (s *server) failed(e *Export, action string, off, length int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.diskErr == nil {
		s.diskErr = fmt.Errorf("%s %d bytes at %d of export %q: %w", action, length, off, e.Name, err)
	}
}

// flags are the transmission flags of an export.
func (e *Export) flags(structured bool) uint16 {
	// Several connections are safe: all of them see one Disk, and a flush on
	// one syncs what was written through any.
	f := uint16(flagHasFlags | flagFlush | flagCanMultiConn)
	if structured {
		f |= flagDF
	}
	if e.Writer == nil {
		return f | flagReadOnly
	}
	return f | flagFUA | flagTrim | flagWriteZeroes | flagFastZero
}

package cli_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/livefix/sshguest/sshguesttest"
)

// wire is a network between here and the guest that breaks once a number of
// bytes, both directions together, has passed.
type wire struct {
	net.Listener
	to     string
	passed atomic.Int64
	most   atomic.Int64 // 0 does not break
	mu     sync.Mutex
	conns  []net.Conn
}

func newWire(t *testing.T, s *sshguesttest.Server) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, to: s.Addr()}
	known, err := os.OpenFile(s.Known, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(known, "[127.0.0.1]:%d %s", w.port(), ssh.MarshalAuthorizedKey(s.HostKey))
	_ = known.Close()
	t.Cleanup(func() { _ = l.Close(); w.cut() })
	go w.serve()
	return w
}

func (w *wire) port() int { return w.Addr().(*net.TCPAddr).Port }

// breakAfter makes the network whole, to break after so many bytes.
func (w *wire) breakAfter(n int64) {
	w.cut()
	w.passed.Store(0)
	w.most.Store(n)
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

func (w *wire) serve() {
	for {
		near, err := w.Accept()
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

func (w *wire) carry(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if most := w.most.Load(); most > 0 {
			if over := w.passed.Add(int64(n)) - most; over > 0 {
				// What still fits arrives, the rest is lost.
				_, _ = to.Write(buf[:max(0, int64(n)-over)])
				w.cut()
				return
			}
		} else {
			w.passed.Add(int64(n))
		}
		if _, e := to.Write(buf[:n]); e != nil || err != nil {
			if err != nil && err != io.EOF {
				_ = to.Close()
			}
			if c, ok := to.(*net.TCPConn); ok {
				_ = c.CloseWrite()
			}
			return
		}
	}
}

// TestCutAnywhere breaks the network at many places of a repair, and of an undo.
// Whatever was under way, the same command run again ends where an undisturbed
// one does, and undo gives back the original bytes.
func TestCutAnywhere(t *testing.T) {
	s := startGuest(t, "")
	w := newWire(t, s)
	repair := []string{"--yes", "--initramfs", "inject", "--quiet"}
	before := state(t, s)

	w.breakAfter(0)
	livefix(t.Context(), t, s, "deploy", w.port(), "--dry-run", "--initramfs", "inject").must(t, 0)
	planned := w.passed.Load()
	w.breakAfter(0)
	livefix(t.Context(), t, s, "deploy", w.port(), repair...).must(t, 0)
	total := w.passed.Load()
	after := state(t, s)
	w.breakAfter(0)
	livefix(t.Context(), t, s, "deploy", w.port(), "--undo", "--quiet").must(t, 0)
	undoing := w.passed.Load()
	wantSame(t, "after undo", before, state(t, s))
	t.Logf("a plan takes %d bytes, a repair %d, an undo %d", planned, total, undoing)

	const cuts = 10
	broke := 0
	for i := range int64(cuts) {
		// Most of them while it writes.
		at := planned*9/10 + (total-planned*9/10)*i/cuts
		w.breakAfter(at)
		r := livefix(t.Context(), t, s, "deploy", w.port(), append(repair, "--json")...)
		if r.code != 0 {
			broke++
			if e := r.report(t).Error; e.Code != api.CodeLost && e.Code != api.CodeConnect {
				t.Errorf("cut after %d bytes: %s: %s %s: %s", at, e.Code, e.Action, e.Object, e.Reason)
			}
		}
		w.breakAfter(0)
		if i%2 == 1 {
			// Undo is an end of its own for what was cut short.
			r := livefix(t.Context(), t, s, "deploy", w.port(), "--undo")
			if r.code != 0 && r.code != 1 {
				t.Errorf("undo after a cut at %d: exit code %d\n%s", at, r.code, r.err)
			}
			wantSame(t, "undone after a cut", before, state(t, s))
		}
		livefix(t.Context(), t, s, "deploy", w.port(), repair...).must(t, 0)
		wantSame(t, "completed after a cut", after, state(t, s))
		w.breakAfter(undoing * (i + 1) / (cuts + 1))
		_ = livefix(t.Context(), t, s, "deploy", w.port(), "--undo", "--quiet")
		w.breakAfter(0)
		if r := livefix(t.Context(), t, s, "deploy", w.port(), "--undo", "--quiet"); r.code != 0 && r.code != 1 {
			t.Errorf("the second undo: exit code %d\n%s", r.code, r.err)
		}
		wantSame(t, "undone", before, state(t, s))
		if t.Failed() {
			t.Fatalf("cut after %d bytes of %d", at, total)
		}
	}
	if broke < cuts/2 {
		t.Errorf("only %d of %d cuts broke a run", broke, cuts)
	}
}

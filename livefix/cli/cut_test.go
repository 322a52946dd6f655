package cli_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/livefix/sshguest/sshguesttest"
)

// newWire leads to the guest by another port, whose key is known too.
func newWire(t testing.TB, s *sshguesttest.Server) *sshguesttest.Wire {
	t.Helper()
	w := sshguesttest.NewWire(t, s.Addr())
	known, err := os.OpenFile(s.Known, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(known, "[127.0.0.1]:%d %s", w.Port(), ssh.MarshalAuthorizedKey(s.HostKey))
	_ = known.Close()
	return w
}

// TestCutAnywhere breaks the network at many places of a repair, and of an undo.
// Whatever was under way, the same command run again ends where an undisturbed
// one does, and undo gives back the original bytes.
func TestCutAnywhere(t *testing.T) {
	s := startGuest(t, "")
	w := newWire(t, s)
	repair := []string{"--yes", "--initramfs", "inject", "--quiet"}
	before := state(t, s)

	w.BreakAfter(0)
	livefix(t.Context(), t, s, "deploy", w.Port(), "--dry-run", "--initramfs", "inject").must(t, 0)
	planned := w.Passed()
	w.BreakAfter(0)
	livefix(t.Context(), t, s, "deploy", w.Port(), repair...).must(t, 0)
	total := w.Passed()
	after := state(t, s)
	w.BreakAfter(0)
	livefix(t.Context(), t, s, "deploy", w.Port(), "--undo", "--quiet").must(t, 0)
	undoing := w.Passed()
	wantSame(t, "after undo", before, state(t, s))
	t.Logf("a plan takes %d bytes, a repair %d, an undo %d", planned, total, undoing)

	const cuts = 8
	broke := 0
	for i := range int64(cuts) {
		// Most of them while it writes.
		at := planned*9/10 + (total-planned*9/10)*i/cuts
		w.BreakAfter(at)
		r := livefix(t.Context(), t, s, "deploy", w.Port(), append(repair, "--json")...)
		if r.code != 0 {
			broke++
			if e := r.report(t).Error; e.Code != api.CodeLost && e.Code != api.CodeConnect {
				t.Errorf("cut after %d bytes: %s: %s %s: %s", at, e.Code, e.Action, e.Object, e.Reason)
			}
		}
		w.BreakAfter(0)
		if i%2 == 1 {
			// Undo is an end of its own for what was cut short.
			r := livefix(t.Context(), t, s, "deploy", w.Port(), "--undo")
			undone(t, r)
			wantSame(t, "undone after a cut", before, state(t, s))
		}
		livefix(t.Context(), t, s, "deploy", w.Port(), repair...).must(t, 0)
		wantSame(t, "completed after a cut", after, state(t, s))
		w.BreakAfter(undoing * (i + 1) / (cuts + 1))
		_ = livefix(t.Context(), t, s, "deploy", w.Port(), "--undo", "--quiet")
		w.BreakAfter(0)
		undone(t, livefix(t.Context(), t, s, "deploy", w.Port(), "--undo", "--quiet"))
		wantSame(t, "undone", before, state(t, s))
		if t.Failed() {
			t.Fatalf("cut after %d bytes of %d", at, total)
		}
	}
	if broke < cuts/2 {
		t.Errorf("only %d of %d cuts broke a run", broke, cuts)
	}
}

// undone wants an undo to be done, or to have been.
func undone(t *testing.T, r result) {
	t.Helper()
	if r.code != 0 && !strings.Contains(r.err, "no journal") {
		t.Errorf("undo ends with %d:\n%s", r.code, r.err)
	}
}

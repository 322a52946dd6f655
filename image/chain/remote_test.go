package chain

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/raw"
	"hyper2kvm/image/hostfile"
	"hyper2kvm/image/nbd"
)

// export serves a file as it is over NBD, and gives its URI.
func export(t testing.TB, path string) string {
	t.Helper()
	f, err := hostfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nbd") // short: a socket's path is limited to 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, done := t.Context(), make(chan error, 1)
	go func() { done <- nbd.Serve(ctx, l, []nbd.Export{{Name: "d", Disk: raw.New(f.Format())}}) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Close()
		os.RemoveAll(dir)
	})
	return "nbd+unix:///d?socket=" + filepath.Join(dir, "s")
}

// TestRemote: an export is a disk as it is, and an image only where that is
// said; what it names is never opened.
func TestRemote(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, "qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "3M")
	run(t, dir, "qemu-io", "-c", "write -P 1 0 1M", "-c", "write -P 2 2M 1M", "a.qcow2")
	want := flatten(t, dir, "qcow2", "a.qcow2")
	file, err := os.ReadFile(filepath.Join(dir, "a.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	uri := export(t, filepath.Join(dir, "a.qcow2"))
	t.Run("as it is", func(t *testing.T) {
		c := mustOpen(t, uri, Policy{})
		formatstest.Disk(t, c, bytes.NewReader(file))
		if i := c.Images(); len(i) != 1 || i[0].Path != uri || i[0].Info.Format != "nbd" {
			t.Errorf("images %+v", i)
		}
		if f := c.Files(); len(f) != 0 {
			t.Errorf("files %v", f)
		}
		if c.SectorSize() != 512 || !strings.HasPrefix(c.Remote(), uri+" ") {
			t.Errorf("sectors of %d, %q", c.SectorSize(), c.Remote())
		}
	})
	t.Run("as an image", func(t *testing.T) {
		c := mustOpen(t, uri, Policy{Format: "qcow2"})
		formatstest.Disk(t, c, bytes.NewReader(want))
		c.Interrupt()
		if _, err := c.ReadAt(make([]byte, 512), 0); !errors.Is(err, nbd.ErrClosed) {
			t.Errorf("read after an interruption: %v", err)
		}
	})
	t.Run("what it names", func(t *testing.T) {
		write(t, filepath.Join(dir, "base.raw"), strings.Repeat("x", 1<<20))
		for _, name := range []string{"base.raw", filepath.Join(dir, "base.raw"), "/etc/passwd"} {
			uri := export(t, child(t, dir, "child.qcow2", name, "raw"))
			if _, err := Open(uri, Policy{Format: "qcow2", Outside: true}); !errors.Is(err, formats.ErrRefused) {
				t.Errorf("parent %s: %v", name, err)
			}
		}
	})
	t.Run("nothing", func(t *testing.T) {
		write(t, filepath.Join(dir, "empty"), "")
		if _, err := Open(export(t, filepath.Join(dir, "empty")), Policy{}); !errors.Is(err, detect.ErrEmpty) {
			t.Errorf("empty: %v", err)
		}
		if _, err := Open(uri+"?", Policy{}); err == nil {
			t.Error("a socket that is not there was opened")
		}
		if _, err := Open("nbd+unix:///d", Policy{}); !errors.Is(err, nbd.ErrAddress) {
			t.Errorf("no socket: %v", err)
		}
	})
}

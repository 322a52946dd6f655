package convert

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/image/publish"
)

// faulty is a disk on which something happens from the n-th read on.
type faulty struct {
	*formatstest.Memory
	from int64 // guest offset
	do   func() error
}

func (f faulty) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		if err := f.do(); err != nil {
			return 0, err
		}
	}
	return f.Memory.ReadAt(p, off)
}

func TestReadErrorLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d := faulty{memory(t, sources()["full"]), 2 << 20, func() error { return formats.ErrTruncated }}
	_, err := Run(t.Context(), d, filepath.Join(dir, "out"), Options{Workers: 4})
	if !errors.Is(err, formats.ErrTruncated) || !strings.Contains(err.Error(), "guest offset") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

func TestShortSource(t *testing.T) {
	dir := t.TempDir()
	d := faulty{memory(t, sources()["full"]), 2 << 20, func() error { return io.EOF }}
	if _, err := Run(t.Context(), d, filepath.Join(dir, "out"), Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

func TestCancelLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	why := errors.New("the user pressed ^C")
	ctx, cancel := context.WithCancelCause(t.Context())
	d := faulty{memory(t, sources()["full"]), 1 << 20, func() error { cancel(why); return nil }}
	if _, err := Run(ctx, d, filepath.Join(dir, "out"), Options{Workers: 2}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

func TestAbsentIsRefused(t *testing.T) {
	dir := t.TempDir()
	m := formatstest.NewMemory(1 << 20).Child().Ready()
	if _, err := Run(t.Context(), m, filepath.Join(dir, "out"), Options{}); !errors.Is(err, formats.ErrAbsent) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

func TestExisting(t *testing.T) {
	dir := t.TempDir()
	src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	disk := rawFile(t, src, sources()["sparse"])
	if err := os.WriteFile(out, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), disk, out, Options{}); !errors.Is(err, publish.ErrExists) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "precious" {
		t.Errorf("the existing file holds %q, %v", b, err)
	}
	// Not even by force onto the source, under whatever name.
	if err := os.Symlink(src, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{src, filepath.Join(dir, "link")} {
		if _, err := Run(t.Context(), disk, name, Options{Force: true, Sources: []string{src}}); !errors.Is(err, publish.ErrIsSource) {
			t.Errorf("onto %s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(src); err != nil || !bytes.Equal(b, sources()["sparse"]) {
		t.Errorf("the source has changed, %v", err)
	}
}

// A file system that is too small is found before anything is written where
// the size is known, and while writing where it is not.
func TestNoSpace(t *testing.T) {
	dir := mountTmpfs(t)
	for _, opt := range []Options{{Format: "raw"}, {}, {Compress: "zstd"}, {Format: "vmdk", Variant: "streamOptimized"}} {
		_, err := Run(t.Context(), memory(t, sources()["full"]), filepath.Join(dir, "out"), opt)
		if !errors.Is(err, ErrNoSpace) {
			t.Errorf("%+v: %v", opt, err)
		}
		nothingLeft(t, dir)
	}
}

func mountTmpfs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return dir
}

// childDir makes the test binary convert for ever, to be killed.
const childDir = "H2K_TEST_CONVERT_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		d := faulty{formatstest.NewMemory(64 << 20), 4 << 20, func() error { time.Sleep(time.Hour); return nil }}
		for off := int64(0); off < 64<<20; off += 4096 {
			if _, err := d.WriteAt([]byte("data"), off); err != nil {
				panic(err)
			}
		}
		d.Ready()
		_, err := Run(context.Background(), d, filepath.Join(dir, "out"), Options{Workers: 1})
		panic(err)
	}
	if what := os.Getenv(memoryOf); what != "" {
		if err := memoryChild(what); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// kill -9 leaves nothing under the final name, a run beside a live one is
// refused, and the next run clears up.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	partial := publish.Partial(out)
	waitFor(t, func() bool { info, err := os.Stat(partial); return err == nil && info.Size() > 1<<20 })
	disk := memory(t, sources()["sparse"])
	if _, err := Run(t.Context(), disk, out, Options{}); !errors.Is(err, publish.ErrBusy) {
		t.Errorf("beside a live run: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil {
		t.Fatal("the child ended well")
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("final name after kill -9: %v", err)
	}
	if _, err := os.Stat(partial); err != nil {
		t.Fatalf("this test expects a stale partial file: %v", err)
	}
	if _, err := Run(t.Context(), disk, out, Options{Verify: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(partial); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stale partial file: %v", err)
	}
	formatstest.QemuImg(t, "check", "-q", out)
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 600 {
		if done() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("waited for half a minute in vain")
}

// Verification can fail: a source that reads differently the second time.
func TestVerifyFindsADifference(t *testing.T) {
	dir := t.TempDir()
	m := memory(t, sources()["full"])
	reads := 0
	d := faulty{m, 3 << 20, func() error {
		if reads++; reads == 2 {
			_, err := m.WriteAt([]byte("changed"), 3<<20)
			m.Ready()
			return err
		}
		return nil
	}}
	if _, err := Run(t.Context(), d, filepath.Join(dir, "out"), Options{Workers: 1, Verify: true}); !errors.Is(err, ErrVerify) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

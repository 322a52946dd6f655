//go:build linux

package initramfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// attached opens the small tools image with a folder as root; loaded collects
// the modules in the order in which they are loaded.
func attached(t *testing.T, image []byte) (tools *Tools, root string, loaded *[]string) {
	t.Helper()
	path, root := filepath.Join(t.TempDir(), "tools"), t.TempDir()
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	loaded = &[]string{}
	tools, err := openTools(path, root, func(p string) error {
		if _, err := os.Stat(p); err != nil {
			t.Errorf("load: %v", err)
		}
		*loaded = append(*loaded, filepath.Base(p))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tools.Close() })
	return tools, root, loaded
}

func TestNeedUnpacksWhatIsAskedFor(t *testing.T) {
	tools, root, loaded := attached(t, small(t))
	for range 2 { // the second time costs nothing
		if err := tools.Need("lvm"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(root, "sbin/lvm")); err != nil || string(got) != "ELF!" {
		t.Errorf("lvm = %q, %v", got, err)
	}
	if fi, err := os.Stat(filepath.Join(root, "sbin/lvm")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("lvm: %v, %v", fi.Mode(), err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "lib/libc.so")); err != nil || string(got) != "DM1" {
		t.Errorf("linked library = %q, %v", got, err)
	}
	if err := tools.Need("mkfs.ext4"); err != nil {
		t.Error(err)
	}
	if to, err := os.Readlink(filepath.Join(root, "sbin/mkfs.ext4")); err != nil || to != "mke2fs" {
		t.Errorf("mkfs.ext4 links to %q, %v; want mke2fs", to, err)
	}
	if len(*loaded) != 0 {
		t.Errorf("modules were loaded: %v", *loaded)
	}
	if left, err := filepath.Glob(filepath.Join(root, "*/*.[0-9]*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestNeedLoadsModulesInOrder(t *testing.T) {
	tools, root, loaded := attached(t, small(t))
	for _, name := range []string{"fs-a", "a_fs", "ext4", "circle"} {
		if err := tools.Need(name); err != nil {
			t.Errorf("Need(%s): %v", name, err)
		}
	}
	if want := []string{"crc.ko", "a.ko", "circle.ko"}; !slices.Equal(*loaded, want) {
		t.Errorf("loaded %v, want %v", *loaded, want)
	}
	if _, err := os.Stat(filepath.Join(root, "lib/modules/a.ko")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a loaded module takes memory twice: %v", err)
	}
}

func TestNeedSaysWhatIsNotCarried(t *testing.T) {
	tools, _, _ := attached(t, small(t))
	for _, name := range []string{"zfs", "broken"} {
		if err := tools.Need(name); !errors.Is(err, ErrUnknownTool) || !strings.Contains(err.Error(), name) {
			t.Errorf("Need(%s) = %v", name, err)
		}
	}
	image := small(t)
	cut, _, _ := attached(t, image[:len(image)-8])
	if err := cut.Need("lvm"); err == nil {
		t.Error("a truncated image gave a program")
	}
}

func TestReapTakesOnlyWhatNobodyWaitsFor(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	for end := time.Now().Add(10 * time.Second); !isZombie(cmd.Process.Pid, os.Getpid()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the child does not end")
		}
	}
	dead := reapOnce(nil, os.Getpid())
	if !dead[cmd.Process.Pid] || !isZombie(cmd.Process.Pid, os.Getpid()) {
		t.Errorf("first round: %v; want it seen and left", dead)
	}
	reapOnce(dead, os.Getpid())
	if isZombie(cmd.Process.Pid, os.Getpid()) {
		t.Error("second round left it")
	}
	_ = cmd.Wait() // it is gone; this frees what os/exec holds
}

func TestNamespacePrintsItself(t *testing.T) {
	for _, s := range namespace() {
		if text := s.String(); !strings.Contains(text, "/") {
			t.Errorf("%T prints as %q", s, text)
		}
	}
}

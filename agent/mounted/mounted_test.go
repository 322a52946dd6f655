package mounted_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

func open(t *testing.T, dir string) *mounted.Root {
	t.Helper()
	r, err := mounted.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	guesttest.TestFS(t, func() guest.FS { return open(t, t.TempDir()) })
}

// hostile makes a guest next to a file that no guest may reach: outside/secret
// beside guest/.
func hostile(t *testing.T) (dir string, r *mounted.Root) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "guest")
	must(t, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	must(t, os.MkdirAll(filepath.Join(top, "outside"), 0o755))
	must(t, os.WriteFile(filepath.Join(top, "outside/secret"), []byte("host"), 0o644))
	return dir, open(t, dir)
}

func TestEscapes(t *testing.T) {
	dir, r := hostile(t)
	outside := filepath.Join(filepath.Dir(dir), "outside")
	for name, target := range map[string]string{
		"etc/relative":  "../../outside/secret",
		"etc/absolute":  filepath.Join(outside, "secret"),
		"etc/passwords": "/etc/shadow",
		"etc/deep":      strings.Repeat("../", 100) + "etc/hostname",
		"etc/proc":      "/proc/self/root/etc/hostname",
		"etc/fd":        "/proc/self/fd/0",
	} {
		must(t, os.Symlink(target, filepath.Join(dir, name)))
		if _, err := r.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opening %s -> %s gives %v, want not exist", name, target, err)
		}
		if _, err := r.Attr(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("attributes of %s -> %s: %v, want not exist", name, target, err)
		}
		_ = r.Write(name, strings.NewReader("guest"), guest.Attr{Mode: 0o644})
		_ = r.Append(name, strings.NewReader("guest"))
		_ = r.Truncate(name, 0)
	}
	must(t, os.Symlink(outside, filepath.Join(dir, "out")))
	must(t, os.Symlink("../outside", filepath.Join(dir, "up")))
	for _, link := range []string{"out", "up"} {
		if err := r.Remove(link + "/secret"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("removing %s/secret gives %v", link, err)
		}
		if err := r.Mkdir(link+"/made", guest.Attr{Mode: 0o755}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("mkdir %s/made gives %v", link, err)
		}
		if err := r.Symlink("x", link+"/link"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("symlink %s/link gives %v", link, err)
		}
		if _, err := r.ReadDir(link); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("listing %s gives %v", link, err)
		}
	}
	left, err := os.ReadDir(outside)
	must(t, err)
	content, err := os.ReadFile(filepath.Join(outside, "secret"))
	must(t, err)
	if len(left) != 1 || string(content) != "host" {
		t.Fatalf("outside the guest: %v, secret holds %q", left, content)
	}
}

// TestFarm puts a chain of links longer than a name may pass through, and many
// that fan out, in the place of files that are read.
func TestFarm(t *testing.T) {
	dir, r := hostile(t)
	must(t, os.WriteFile(filepath.Join(dir, "end"), nil, 0o644))
	before := "end"
	for range 100 {
		next := before + "x"
		must(t, os.Symlink(before, filepath.Join(dir, next)))
		before = next
	}
	if _, err := r.Open(before); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a chain of 100 links gives %v", err)
	}
	if err := r.Write(before, strings.NewReader(""), guest.Attr{}); !errors.Is(err, guest.ErrLoop) {
		t.Errorf("writing through a chain of 100 links gives %v", err)
	}
}

func TestSpecialFiles(t *testing.T) {
	dir, r := hostile(t)
	must(t, unix.Mkfifo(filepath.Join(dir, "etc/fstab"), 0o644))
	kinds := []string{"etc/fstab"}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(sock)
	at, err := os.Open(dir) // a socket's address is short, so name it from a folder
	must(t, err)
	defer at.Close()
	must(t, unix.Bind(sock, &unix.SockaddrUnix{Name: "/proc/self/fd/" + itoa(int(at.Fd())) + "/sock"}))
	kinds = append(kinds, "sock")
	if os.Getuid() == 0 {
		must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		kinds = append(kinds, "null")
	}
	for _, name := range kinds {
		in(t, time.Second*5, name, func() {
			if f, err := r.Open(name); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("opening %s gives %v, %v", name, f, err)
			}
			if err := r.Write(name, strings.NewReader("x"), guest.Attr{Mode: 0o644}); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("writing %s gives %v", name, err)
			}
			if err := r.Append(name, strings.NewReader("x")); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("appending to %s gives %v", name, err)
			}
			if _, err := r.Attr(name); err != nil {
				t.Errorf("attributes of %s: %v", name, err)
			}
		})
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

func in(t *testing.T, limit time.Duration, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s hangs", what)
	}
}

func TestNamesOfBytes(t *testing.T) {
	dir, r := hostile(t)
	names := []string{"\xff\xfe", "a\nb", "-rf", "é", " ", "...", "back\\slash"}
	for _, n := range names {
		must(t, os.WriteFile(filepath.Join(dir, "etc", n), []byte(n), 0o644))
	}
	entries, err := r.ReadDir("etc")
	must(t, err)
	var got []string
	for _, e := range entries {
		data, err := fs.ReadFile(r, "etc/"+e.Name())
		if err != nil || string(data) != e.Name() {
			t.Errorf("%q reads %q, %v", e.Name(), data, err)
		}
		if info, err := e.Info(); err != nil || info.Size() != int64(len(e.Name())) {
			t.Errorf("info of %q: %v, %v", e.Name(), info, err)
		}
		got = append(got, e.Name())
	}
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Errorf("listed %q, want %q", got, names)
	}
	if _, err := r.Open("etc/x\x00y"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a name with a zero byte gives %v", err)
	}
}

func TestCapabilitiesAndACLsKept(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to set capabilities")
	}
	dir, r := hostile(t)
	file := filepath.Join(dir, "etc/ping")
	must(t, os.WriteFile(file, []byte("old"), 0o755))
	// cap_net_raw=ep as VFS_CAP_REVISION_2 stores it (linux/capability.h).
	caps := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	must(t, unix.Setxattr(file, "security.capability", caps, 0))
	must(t, unix.Setxattr(file, "security.selinux", []byte("system_u:object_r:ping_exec_t:s0\x00"), 0))
	must(t, os.Lchown(file, 33, 44))
	must(t, unix.Setxattr(file, "security.capability", caps, 0))
	before, err := r.Attr("etc/ping")
	must(t, err)
	must(t, r.Write("etc/ping", strings.NewReader("new"), before))
	after, err := r.Attr("etc/ping")
	must(t, err)
	if string(after.Xattrs["security.capability"]) != string(caps) || after.UID != 33 || after.GID != 44 || len(after.Xattrs["security.selinux"]) != 33 {
		t.Errorf("attributes after a write are %+v, before %+v", after, before)
	}
}

// TestLabels holds that a label is set on a link, not on what it points to, and
// that no link leads out of the tree.
func TestLabels(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to set security attributes")
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	must(t, os.Symlink("file", filepath.Join(dir, "link")))
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "x"), nil, 0o644))
	must(t, os.Symlink(outside, filepath.Join(dir, "out")))
	r := open(t, dir)
	must(t, r.SetLabel("link", []byte("a:b:link_t\x00")))
	must(t, r.SetLabel(".", []byte("a:b:root_t\x00")))
	for name, want := range map[string]string{"link": "a:b:link_t\x00", "file": "", ".": "a:b:root_t\x00"} {
		got, err := r.Label(name)
		must(t, err)
		if string(got) != want {
			t.Errorf("label of %s is %q, want %q", name, got, want)
		}
	}
	if err := r.SetLabel("out/x", []byte("a:b:bad_t\x00")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a label outside of the tree: %v", err)
	}
}

// TestNoLabels writes a file with a label onto a file system that has none.
func TestNoLabels(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	must(t, unix.Mount("ramfs", dir, "ramfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	r := open(t, dir)
	attr := guest.Attr{Mode: 0o600, Xattrs: map[string][]byte{"security.selinux": []byte("u:r:t:s0\x00")}}
	must(t, r.Write("file", strings.NewReader("x"), attr))
	must(t, r.SetLabel("file", []byte("u:r:t:s0\x00")))
}

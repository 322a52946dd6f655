package guesttest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest"
)

// TestFS checks what every guest.FS promises. empty makes a new writable,
// empty tree; the owner of files is set only when the test runs as root.
func TestFS(t *testing.T, empty func() guest.FS) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, guest.FS)
	}{
		{"io/fs", testStdlib},
		{"write and read", testWrite},
		{"attributes", testAttr},
		{"extended attributes", testXattrs},
		{"names", testNames},
		{"links stay inside", testEscape},
		{"write through a link", testWriteLink},
		{"link loop", testLoop},
		{"links", testLinks},
		{"folders", testDirs},
		{"failed write leaves the old file", testFailedWrite},
		{"append and truncate", testAppend},
		{"labels", testLabels},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, empty()) })
	}
}

func owner() (uid, gid int) {
	if os.Getuid() == 0 {
		return 1234, 567
	}
	return os.Getuid(), os.Getgid()
}

func plain(mode fs.FileMode) guest.Attr {
	return guest.Attr{Mode: mode, UID: os.Getuid(), GID: os.Getgid()}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, f guest.FS, name, content string) {
	t.Helper()
	must(t, f.Write(name, strings.NewReader(content), plain(0o644)))
}

func want(t *testing.T, f guest.FS, name, content string) {
	t.Helper()
	got, err := fs.ReadFile(f, name)
	must(t, err)
	if string(got) != content {
		t.Errorf("%s holds %q, want %q", name, got, content)
	}
}

func wantErr(t *testing.T, what string, err, is error) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Errorf("%s gives %v, want %v", what, err, is)
	}
}

func testStdlib(t *testing.T, f guest.FS) {
	must(t, f.Mkdir("etc", plain(0o755)))
	must(t, f.Mkdir("etc/network", plain(0o755)))
	must(t, f.Mkdir("empty", plain(0o700)))
	put(t, f, "etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n")
	put(t, f, "etc/network/interfaces", strings.Repeat("auto lo\n", 1000))
	put(t, f, "nothing", "")
	must(t, f.Symlink("fstab", "etc/link"))
	must(t, f.Symlink("/etc/network", "abs"))
	must(t, fstest.TestFS(f, "etc/fstab", "etc/network/interfaces", "nothing", "empty"))
}

func testWrite(t *testing.T, f guest.FS) {
	put(t, f, "a", "one")
	want(t, f, "a", "one")
	old, err := f.Open("a")
	must(t, err)
	defer old.Close()
	put(t, f, "a", "another")
	want(t, f, "a", "another")
	// Replacing is by rename: who has the old file open still reads the old.
	if got, err := io.ReadAll(old); err != nil || string(got) != "one" {
		t.Errorf("the file opened before reads %q, %v; want \"one\"", got, err)
	}
	names, err := f.ReadDir(".")
	must(t, err)
	if len(names) != 1 {
		t.Errorf("after two writes of one file the folder holds %v", names)
	}
	must(t, f.Remove("a"))
	_, err = f.Open("a")
	wantErr(t, "opening a removed file", err, fs.ErrNotExist)
	wantErr(t, "removing a missing file", f.Remove("a"), fs.ErrNotExist)
	wantErr(t, "writing in a missing folder", f.Write("no/a", strings.NewReader(""), plain(0o644)), fs.ErrNotExist)
}

func testAttr(t *testing.T, f guest.FS) {
	uid, gid := owner()
	must(t, f.Write("a", strings.NewReader("x"), guest.Attr{Mode: 0o640, UID: uid, GID: gid}))
	attr, err := f.Attr("a")
	must(t, err)
	if attr.Mode != 0o640 || attr.UID != uid || attr.GID != gid {
		t.Errorf("attributes are %v %d:%d, want 0640 %d:%d", attr.Mode, attr.UID, attr.GID, uid, gid)
	}
	must(t, f.Mkdir("d", guest.Attr{Mode: 0o711 | fs.ModeSticky, UID: uid, GID: gid}))
	attr, err = f.Attr("d")
	must(t, err)
	if attr.Mode != fs.ModeDir|fs.ModeSticky|0o711 || attr.UID != uid || attr.GID != gid {
		t.Errorf("attributes of the folder are %v %d:%d", attr.Mode, attr.UID, attr.GID)
	}
	must(t, f.Write("s", strings.NewReader("x"), guest.Attr{Mode: 0o755 | fs.ModeSetuid, UID: uid, GID: gid}))
	if attr, err = f.Attr("s"); err != nil || attr.Mode != 0o755|fs.ModeSetuid {
		t.Errorf("set-uid program has %v, %v", attr.Mode, err)
	}
	must(t, f.Symlink("a", "l"))
	if attr, err = f.Attr("l"); err != nil || attr.Mode != 0o640 {
		t.Errorf("attributes through a link are %v, %v; want the file's", attr.Mode, err)
	}
	_, err = f.Attr("missing")
	wantErr(t, "attributes of a missing file", err, fs.ErrNotExist)
}

func testXattrs(t *testing.T, f guest.FS) {
	attr := plain(0o600)
	attr.Xattrs = map[string][]byte{"user.h2k": []byte("a\x00b")}
	err := f.Write("a", strings.NewReader("x"), attr)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this file system has no user extended attributes")
	}
	must(t, err)
	got, err := f.Attr("a")
	must(t, err)
	if diff := cmp.Diff(attr.Xattrs, got.Xattrs); diff != "" {
		t.Error(diff)
	}
	attr.Xattrs = nil
	must(t, f.Write("a", strings.NewReader("x"), attr))
	if got, err = f.Attr("a"); err != nil || len(got.Xattrs) != 0 {
		t.Errorf("replaced without extended attributes, still has %v, %v", got.Xattrs, err)
	}
}

func testNames(t *testing.T, f guest.FS) {
	for _, name := range []string{"/etc", "../x", "a/../b", "a//b", "a/", "", "./a"} {
		_, err := f.Open(name)
		wantErr(t, "opening "+name, err, fs.ErrInvalid)
		wantErr(t, "writing "+name, f.Write(name, strings.NewReader(""), plain(0o644)), fs.ErrInvalid)
		wantErr(t, "removing "+name, f.Remove(name), fs.ErrInvalid)
		wantErr(t, "linking "+name, f.Symlink("x", name), fs.ErrInvalid)
		wantErr(t, "mkdir "+name, f.Mkdir(name, plain(0o755)), fs.ErrInvalid)
	}
	put(t, f, "file", "x")
	_, err := f.Open("file/below")
	if err == nil {
		t.Error("opening below a file gives no error")
	}
}

// testEscape leaves the root in every way a link can; each must end inside.
func testEscape(t *testing.T, f guest.FS) {
	must(t, f.Mkdir("etc", plain(0o755)))
	must(t, f.Mkdir("a", plain(0o755)))
	put(t, f, "etc/passwd", "guest")
	for name, target := range map[string]string{
		"abs":     "/etc/passwd",
		"up":      "../../../../../../../../etc/passwd",
		"a/up":    "../../../../../../../../etc/passwd",
		"abs-up":  "/../../../../../../../../etc/passwd",
		"a/mixed": "/a/../../../etc/../../etc/passwd",
	} {
		must(t, f.Symlink(target, name))
		want(t, f, name, "guest")
	}
	must(t, f.Symlink("/", "root"))
	must(t, f.Symlink("../../../../../..", "a/dots"))
	want(t, f, "root/etc/passwd", "guest")
	want(t, f, "a/dots/etc/passwd", "guest")
	put(t, f, "a/dots/etc/new", "inside")
	want(t, f, "etc/new", "inside")
	must(t, f.Symlink("../../../../../../../../etc/hyper2kvm-escape", "a/dangling"))
	put(t, f, "a/dangling", "inside")
	want(t, f, "etc/hyper2kvm-escape", "inside")
	if _, err := os.Lstat("/etc/hyper2kvm-escape"); err == nil {
		t.Fatal("the write left the guest's root")
	}
	must(t, f.Mkdir("root/made", plain(0o755)))
	if _, err := f.Stat("made"); err != nil {
		t.Errorf("folder made through a link to the root: %v", err)
	}
	must(t, f.Remove("a/dots/etc/new"))
	_, err := f.Stat("etc/new")
	wantErr(t, "file removed through a link", err, fs.ErrNotExist)
}

func testWriteLink(t *testing.T, f guest.FS) {
	must(t, f.Mkdir("run", plain(0o755)))
	put(t, f, "run/real", "old")
	must(t, f.Symlink("run/real", "link"))
	put(t, f, "link", "new")
	want(t, f, "run/real", "new")
	if target, err := f.ReadLink("link"); err != nil || target != "run/real" {
		t.Errorf("after a write the link is %q, %v", target, err)
	}
	must(t, f.Symlink("/run/fresh", "dangling"))
	_, err := f.Stat("dangling")
	wantErr(t, "stat of a dangling link", err, fs.ErrNotExist)
	put(t, f, "dangling", "made")
	want(t, f, "run/fresh", "made")
}

func testLoop(t *testing.T, f guest.FS) {
	must(t, f.Symlink("b", "a"))
	must(t, f.Symlink("a", "b"))
	must(t, f.Symlink("self/x", "self"))
	for _, name := range []string{"a", "self"} {
		if _, err := f.Open(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opening the loop %s gives %v", name, err)
		}
		if err := f.Write(name, strings.NewReader(""), plain(0o644)); err == nil {
			t.Errorf("writing the loop %s gives no error", name)
		}
	}
	if _, err := f.Lstat("a"); err != nil {
		t.Errorf("lstat of a loop: %v", err)
	}
	must(t, f.Remove("a"))
}

func testLinks(t *testing.T, f guest.FS) {
	put(t, f, "file", "x")
	must(t, f.Symlink("file", "l"))
	must(t, f.Symlink("other", "l")) // replaces a link
	if target, err := f.ReadLink("l"); err != nil || target != "other" {
		t.Errorf("the link is %q, %v; want other", target, err)
	}
	must(t, f.Symlink("l", "file")) // replaces a file
	if info, err := f.Lstat("file"); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("file became %v, %v; want a link", info, err)
	}
	must(t, f.Mkdir("d", plain(0o755)))
	if err := f.Symlink("x", "d"); err == nil {
		t.Error("a link replaced a folder")
	}
	put(t, f, "plain", "x")
	if _, err := f.ReadLink("plain"); err == nil {
		t.Error("reading a file as a link gives no error")
	}
	_, err := f.ReadLink("missing")
	wantErr(t, "reading a missing link", err, fs.ErrNotExist)
	must(t, f.Symlink("d", "ld"))
	must(t, f.Remove("ld")) // the link, not the folder
	if _, err := f.Stat("d"); err != nil {
		t.Errorf("removing a link removed its target: %v", err)
	}
}

func testDirs(t *testing.T, f guest.FS) {
	must(t, f.Mkdir("d", plain(0o755)))
	wantErr(t, "mkdir of a folder that exists", f.Mkdir("d", plain(0o755)), fs.ErrExist)
	wantErr(t, "mkdir below nothing", f.Mkdir("no/d", plain(0o755)), fs.ErrNotExist)
	put(t, f, "d/x", "")
	if err := f.Remove("d"); err == nil {
		t.Error("a folder with a file in it was removed")
	}
	if err := f.Write("d", strings.NewReader(""), plain(0o644)); err == nil {
		t.Error("a file replaced a folder")
	}
	put(t, f, "d/b", "")
	put(t, f, "d/a", "")
	entries, err := f.ReadDir("d")
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"a", "b", "x"}) {
		t.Errorf("the folder lists %v", names)
	}
	for _, name := range names {
		must(t, f.Remove("d/"+name))
	}
	must(t, f.Remove("d"))
	_, err = f.ReadDir("d")
	wantErr(t, "listing a removed folder", err, fs.ErrNotExist)
}

var errReader = errors.New("source failed")

func testFailedWrite(t *testing.T, f guest.FS) {
	put(t, f, "a", "old")
	half := io.MultiReader(bytes.NewReader(make([]byte, 1<<16)), brokenReader{})
	wantErr(t, "a write whose source fails", f.Write("a", half, plain(0o644)), errReader)
	want(t, f, "a", "old")
	wantErr(t, "a write whose source fails", f.Write("b", brokenReader{}, plain(0o644)), errReader)
	entries, err := f.ReadDir(".")
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("failed writes left %v", entries)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errReader }

func testAppend(t *testing.T, f guest.FS) {
	a, ok := f.(guest.Appender)
	if !ok {
		t.Skip("not a guest.Appender")
	}
	must(t, f.Write("a", strings.NewReader("one"), plain(0o600)))
	must(t, f.Symlink("/a", "l"))
	must(t, a.Append("l", strings.NewReader("two")))
	want(t, f, "a", "onetwo")
	must(t, a.Truncate("l", 3))
	want(t, f, "a", "one")
	if attr, err := f.Attr("a"); err != nil || attr.Mode != 0o600 {
		t.Errorf("mode is %v, %v; want 0600", attr.Mode, err)
	}
	wantErr(t, "appending to a missing file", a.Append("no", strings.NewReader("x")), fs.ErrNotExist)
	wantErr(t, "cutting a missing file", a.Truncate("no", 0), fs.ErrNotExist)
}

// testLabels is for trees that have labels, and for root, who may set them.
func testLabels(t *testing.T, f guest.FS) {
	l, ok := f.(guest.Labels)
	if !ok || os.Getuid() != 0 {
		return
	}
	put(t, f, "file", "x")
	must(t, f.Symlink("file", "link"))
	must(t, f.Symlink("/../..", "out"))
	must(t, l.SetLabel("link", []byte("u:r:link_t:s0\x00")))
	for name, want := range map[string]string{"link": "u:r:link_t:s0\x00", "file": ""} {
		got, err := l.Label(name)
		must(t, err)
		if string(got) != want {
			t.Errorf("the label of %s is %q, want %q", name, got, want)
		}
	}
	must(t, l.SetLabel("file", []byte("u:r:file_t:s0\x00")))
	attr, err := f.Attr("file")
	must(t, err)
	if got := string(attr.Xattrs[label]); got != "u:r:file_t:s0\x00" {
		t.Errorf("the label of a file is %q among its attributes", got)
	}
	must(t, l.SetLabel("out/file", []byte("u:r:other_t:s0\x00")))
	if got, err := l.Label("file"); err != nil || string(got) != "u:r:other_t:s0\x00" {
		t.Errorf("a link above the root leads to label %q, %v", got, err)
	}
	_, err = l.Label("absent")
	wantErr(t, "the label of what is not there", err, fs.ErrNotExist)
}

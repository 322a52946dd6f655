package publish_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/image/publish"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func create(t *testing.T, final string, force bool) *publish.Output {
	t.Helper()
	o, err := publish.Create(final, force)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.File().WriteString("new"); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestCommit(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "a.qcow2")
	o := create(t, final, false)
	if got := names(t, dir); got != ".a.qcow2.h2k-partial" {
		t.Errorf("before: %s", got)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != "a.qcow2" {
		t.Errorf("after: %s", got)
	}
	if b, err := os.ReadFile(final); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	if err := create(t, filepath.Join(dir, "a"), false).Abort(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestExists(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "a")
	if err := os.WriteFile(final, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Create(final, false); !errors.Is(err, publish.ErrExists) {
		t.Errorf("got %v", err)
	}
	if _, err := publish.Create(dir, true); !errors.Is(err, publish.ErrExists) {
		t.Errorf("onto a folder: %v", err)
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Create(dangling, false); !errors.Is(err, publish.ErrExists) {
		t.Errorf("onto a dangling link: %v", err)
	}
	if err := create(t, final, true).Commit(); err != nil {
		t.Errorf("by force: %v", err)
	}
	if b, err := os.ReadFile(final); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
}

// A file that turns up under the final name meanwhile is not replaced.
func TestLostRace(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "a")
	o := create(t, final, false)
	if err := os.WriteFile(final, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); !errors.Is(err, publish.ErrExists) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(final); err != nil || string(b) != "theirs" || names(t, dir) != "a" {
		t.Errorf("%q, %v, %s", b, err, names(t, dir))
	}
}

func TestIsSource(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.WriteFile(src, []byte("source"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "hard")
	if err := os.Link(src, link); err != nil {
		t.Fatal(err)
	}
	for _, final := range []string{src, link} {
		if _, err := publish.Create(final, true, filepath.Join(dir, "gone"), src); !errors.Is(err, publish.ErrIsSource) {
			t.Errorf("onto %s: %v", final, err)
		}
	}
}

func TestLiveAndStale(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "a")
	o := create(t, final, false)
	if _, err := publish.Create(final, false); !errors.Is(err, publish.ErrBusy) {
		t.Errorf("beside a live writer: %v", err)
	}
	if err := o.Abort(); err != nil {
		t.Fatal(err)
	}
	// What a killed run leaves: the file without its lock.
	if err := os.WriteFile(publish.Partial(final), []byte("stale and long"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := create(t, final, false).Commit(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(final); err != nil || string(b) != "new" || names(t, dir) != "a" {
		t.Errorf("%q, %v, %s", b, err, names(t, dir))
	}
}

// What a run keeps, and only that, can be taken up by another.
func TestKeepAndTakeUp(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "a")
	if err := create(t, final, false).Keep(); err != nil {
		t.Fatal(err)
	}
	o, err := publish.TakeUp(final, false)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(o.File().Name()); err != nil || string(b) != "new" {
		t.Errorf("taken up: %q, %v", b, err)
	}
	if _, err := publish.TakeUp(final, false); !errors.Is(err, publish.ErrBusy) {
		t.Errorf("beside a live writer: %v", err)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != "a" {
		t.Errorf("after: %s", got)
	}
	if _, err := publish.TakeUp(final, false); !errors.Is(err, publish.ErrExists) {
		t.Errorf("onto an output that is there: %v", err)
	}
}

// A link under the partial name, as somebody hostile could lay it, is not
// followed.
func TestPartialIsALink(t *testing.T) {
	dir := t.TempDir()
	final, victim := filepath.Join(dir, "a"), filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, publish.Partial(final)); err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Create(final, false); err == nil {
		t.Error("wrote through a link")
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestWriteFileAndLongNames(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, strings.Repeat("n", 255))
	if err := publish.WriteFile(final, []byte("small"), false); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(final); err != nil || string(b) != "small" {
		t.Errorf("%q, %v", b, err)
	}
	if err := publish.WriteFile(filepath.Join(dir, "no", "such"), nil, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into a missing folder: %v", err)
	}
}

// What a power cut needs: the bytes are on the disk before the name is given,
// and the name is after.
func TestSyncedBeforeAndAfterTheName(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace")
	}
	out, err := exec.Command("strace", "-f", "-y", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", os.Args[0], "-test.run", "^TestCommit$").CombinedOutput()
	if err != nil {
		t.Skipf("strace: %v\n%s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.Contains(line, "sync(") && strings.Contains(line, ".h2k-partial>"):
			got = append(got, "bytes")
		case strings.Contains(line, "rename") && strings.Contains(line, ".h2k-partial\""):
			got = append(got, "name")
		case strings.Contains(line, "sync(") && strings.Contains(line, "TestCommit"):
			got = append(got, "folder")
		}
	}
	if strings.Join(got, " ") != "bytes name folder" {
		t.Errorf("synced and named in the order %v\n%s", got, out)
	}
}

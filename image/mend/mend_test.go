package mend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/formats"
)

func image(t *testing.T) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.img")
	content = bytes.Repeat([]byte("0123456789abcdef"), 1024)
	content = content[:len(content)-5]
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func check(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("content is not what it should be (%v)", err)
	}
}

func patched(b []byte, patches []formats.Patch) []byte {
	b = bytes.Clone(b)
	for _, p := range patches {
		copy(b[p.Offset:], p.Bytes)
	}
	return b
}

// some meet each other, a page's border and the end of the file, and one
// changes nothing.
func some(b []byte) []formats.Patch {
	return []formats.Patch{
		{Offset: 100, Bytes: []byte("XXXX")}, {Offset: 102, Bytes: []byte("YYYY")},
		{Offset: 4090, Bytes: []byte("across the border")},
		{Offset: int64(len(b)) - 3, Bytes: []byte("end")},
		{Offset: 9000, Bytes: b[9000:9010]},
	}
}

func TestApplyAndUndo(t *testing.T) {
	path, b := image(t)
	first := some(b)
	kept, err := Apply(path, first)
	if err != nil || kept != path+".h2k-repair-1" {
		t.Fatalf("%q, %v", kept, err)
	}
	one := patched(b, first)
	check(t, path, one)
	second := []formats.Patch{{Offset: 101, Bytes: []byte("again")}}
	if kept, err = Apply(path, second); err != nil || kept != path+".h2k-repair-2" {
		t.Fatalf("%q, %v", kept, err)
	}
	check(t, path, patched(one, second))
	if kept, err = Apply(path, second); err != nil || kept != "" {
		t.Errorf("nothing to write: %q, %v", kept, err)
	}
	for _, want := range [][]byte{one, b} {
		if err := Undo(path); err != nil {
			t.Fatal(err)
		}
		check(t, path, want)
	}
	if err := Undo(path); !errors.Is(err, ErrNone) {
		t.Errorf("undo of nothing: %v", err)
	}
	if left, err := filepath.Glob(path + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestKilled stops a repair, and the taking back of one, after each write.
func TestKilled(t *testing.T) {
	for n := range 5 {
		for _, undo := range []bool{false, true} {
			path, b := image(t)
			patches := some(b)
			want := patched(b, patches)
			if undo {
				if _, err := Apply(path, patches); err != nil {
					t.Fatal(err)
				}
				b, want = want, b
			}
			f, err := openAlone(path)
			if err != nil {
				t.Fatal(err)
			}
			j, err := plan(f, patches)
			if undo {
				done, e := read(backup(path, 1))
				if e != nil {
					t.Fatal(e)
				}
				j, err = reverse(f, done)
				j.Undoes = backup(path, 1)
			}
			if err != nil {
				t.Fatal(err)
			}
			// What run does, up to its n-th write.
			j.Sum = j.sum()
			whole := *j
			if _, err := run(f, path, &whole); err != nil {
				t.Fatal(err)
			}
			begin(t, path, f, b, j, n)
			f.Close()
			if !Pending(path) {
				t.Fatal("the journal is not there")
			}
			if _, err := Finish(path); err != nil {
				t.Fatal(err)
			}
			check(t, path, want)
			if Pending(path) {
				t.Error("the journal is left")
			}
			if left := last(path); left != map[bool]int{false: 1, true: 0}[undo] {
				t.Errorf("%d repairs to take back", left)
			}
		}
	}
}

// begin puts the image into the state after n writes of j.
func begin(t *testing.T, path string, f *os.File, before []byte, j *journal, n int) {
	t.Helper()
	if _, err := f.WriteAt(before, 0); err != nil {
		t.Fatal(err)
	}
	for _, w := range j.Writes[:min(n, len(j.Writes))] {
		if _, err := f.WriteAt(w.New, w.Offset); err != nil {
			t.Fatal(err)
		}
	}
	name, other := pending(path), backup(path, 1)
	if j.Undoes == "" {
		if err := os.Rename(other, name); err != nil {
			t.Fatal(err)
		}
		return
	}
	// The one that is being taken back is still there.
	data := fmt.Sprintf(`{"version":1,"size":%d,"writes":[],"sha256":%q}`, j.Size, (&journal{Writes: []write{}}).sum())
	if err := os.WriteFile(other, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	writeJournal(t, name, j)
}

func TestRefused(t *testing.T) {
	path, b := image(t)
	for _, off := range []int64{-1, int64(len(b)) - 2, 1 << 40} {
		if _, err := Apply(path, []formats.Patch{{Offset: off, Bytes: []byte("abc")}}); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("patch at %d: %v", off, err)
		}
	}
	if _, err := Apply(path, some(b)); err != nil {
		t.Fatal(err)
	}
	// Somebody else writes: then nothing is taken back.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("!"), 103)
	f.Close()
	if err := Undo(path); !errors.Is(err, ErrChanged) {
		t.Errorf("undo of an image that changed: %v", err)
	}
	// A journal that is not ours is not believed.
	for _, text := range []string{"", "{}", `{"version":1,"size":99,"writes":[{"offset":-5,"old":"AA==","new":"AA=="}],"sha256":"x"}`} {
		if err := os.WriteFile(pending(path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Finish(path); err == nil {
			t.Errorf("journal %q was carried out", text)
		}
		os.Remove(pending(path))
	}
}

func TestInUse(t *testing.T) {
	path, b := image(t)
	busy := func(what string) {
		t.Helper()
		if _, err := Apply(path, some(b)); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v", what, err)
		}
		check(t, path, b)
	}
	f, err := openAlone(path)
	if err != nil {
		t.Fatal(err)
	}
	busy("another h2k")
	f.Close()

	t.Run("qemu-nbd", func(t *testing.T) {
		if _, err := exec.LookPath("qemu-nbd"); err != nil {
			t.Skip("qemu-nbd is not installed (package qemu-utils)")
		}
		socket := filepath.Join(filepath.Dir(path), "s")
		cmd := exec.Command("qemu-nbd", "-t", "-r", "-f", "raw", "-k", socket, path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		greeted(t, socket)
		busy("qemu-nbd")
	})
	t.Run("loop device", func(t *testing.T) {
		out, err := exec.Command("losetup", "--find", "--show", "--read-only", path).Output()
		if err != nil {
			t.Skipf("no loop device to be had: %v", err)
		}
		defer func() { exec.Command("losetup", "--detach", strings.TrimSpace(string(out))).Run() }()
		busy("loop device")
	})
}

// greeted waits until an NBD server speaks: its socket is there before it has
// opened, and locked, the image.
func greeted(t *testing.T, socket string) {
	t.Helper()
	for range 3000 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		defer conn.Close()
		hello := make([]byte, 8)
		if _, err := io.ReadFull(conn, hello); err != nil {
			t.Fatalf("%s greets with %q: %v", socket, hello, err)
		}
		return
	}
	t.Fatal("qemu-nbd does not listen")
}

func writeJournal(t *testing.T, path string, j *journal) {
	t.Helper()
	data, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

package mounted_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes/guest"
)

// withFiles is withProgram with some more files.
func withFiles(t *testing.T) (string, *mounted.Runner) {
	t.Helper()
	dir, r := withProgram(t)
	for _, d := range []string{"usr/share/doc/old/deep", "var/lib", "boot"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for name, text := range map[string]string{
		"usr/share/doc/old/deep/a": "a", "usr/share/doc/old/b": "b", "etc/conf": "old\n", "etc/same": "same\n", "etc/gone": "x", "var/lib/state": "1",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	must(t, os.Symlink("conf", filepath.Join(dir, "etc/link")))
	return dir, r
}

func try(t *testing.T, r *mounted.Runner, what string, limit int64) ([]guest.Effect, string, error) {
	t.Helper()
	effects, out, err := r.Try(t.Context(), limit, guest.Command{Args: []string{"prog"}, Env: []string{"H2K_GUEST_PROGRAM=" + what}})
	return effects, string(out), err
}

// TestTry has a program remove and write files of several kinds, one of them on
// a file system of its own.
func TestTry(t *testing.T) {
	dir, r := withFiles(t)
	must(t, unix.Mount("tmpfs", filepath.Join(dir, "boot"), "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "boot"), 0) })
	must(t, os.WriteFile(filepath.Join(dir, "boot/image"), []byte("image"), 0o600))
	before := files(t, dir)
	effects, out, err := try(t, r, "rearrange", 1<<20)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := map[string]string{}
	for _, e := range effects {
		switch {
		case e.Gone:
			got[e.Name] = "gone"
		case e.Attr.Mode&fs.ModeSymlink != 0:
			got[e.Name] = "-> " + e.Target
		case e.Attr.Mode.IsDir():
			got[e.Name] = "folder"
		default:
			got[e.Name] = e.Attr.Mode.String() + " " + string(e.Content)
		}
	}
	want := map[string]string{
		"etc/conf": "-rw-r--r-- new\n", "etc/gone": "gone", "etc/link": "-> other", "etc/script": "-rwxr-x--- #!\n",
		"usr/share/doc/old/deep/a": "gone", "usr/share/doc/old/deep": "gone", "usr/share/doc/old/b": "gone", "usr/share/doc/old": "gone",
		"var/lib/state": "gone", "var/lib/state2": "-rw-r--r-- 1", "boot/image": "gone", "boot/made": "folder", "boot/made/x": "-rw-r--r-- x",
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: %q, want %q", name, got[name], w)
		}
		delete(got, name)
	}
	for name, g := range got {
		t.Errorf("%s: %q, which the program did not do", name, g)
	}
	for i, e := range effects {
		if e.Name == "usr/share/doc/old" && (i == 0 || effects[i-1].Name == "etc/gone") {
			t.Error("a folder is gone before what lies in it")
		}
	}
	if after := files(t, dir); after != before {
		t.Errorf("a trial leaves its traces:\n%s\nbefore:\n%s", after, before)
	}
}

func TestTryFails(t *testing.T) {
	dir, r := withFiles(t)
	must(t, os.WriteFile(filepath.Join(dir, "boot/image"), nil, 0o600))
	if effects, out, err := try(t, r, "fail", 1<<20); err == nil || out != "no space\n" || len(effects) > 0 {
		t.Errorf("a failing program gives %v, %q, %v", effects, out, err)
	}
	if _, _, err := try(t, r, "rearrange", 5); !errors.Is(err, mounted.ErrTrialTooLarge) {
		t.Errorf("more than allowed gives %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "h2k-trial-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// files lists a tree with its contents.
func files(t *testing.T, dir string) string {
	t.Helper()
	out := ""
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Base(name) == "prog" {
			return err
		}
		out += name + " " + d.Type().String()
		if d.Type().IsRegular() && d.Name()[0] != 'l' {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if len(data) < 100 {
				out += " " + string(data)
			}
		}
		out += "\n"
		return nil
	}))
	return out
}

// rearrange is the program of TestTry.
func rearrange() error {
	return errors.Join(
		os.RemoveAll("/usr/share/doc/old"),
		os.Remove("/etc/gone"),
		os.WriteFile("/etc/conf", []byte("new\n"), 0o644),
		os.WriteFile("/etc/same", []byte("same\n"), 0o644),
		os.Remove("/etc/link"), os.Symlink("other", "/etc/link"),
		os.WriteFile("/etc/script", []byte("#!\n"), 0o750),
		os.Rename("/var/lib/state", "/var/lib/state2"),
		os.Remove("/boot/image"), os.Mkdir("/boot/made", 0o755), os.WriteFile("/boot/made/x", []byte("x"), 0o644),
	)
}

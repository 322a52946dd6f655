//go:build debroot

// Package debroot tests repairs on the files of a real Debian system, with its
// own programs as judges: dpkg of what is removed, libselinux of labels.
package debroot

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
	"hyper2kvm/fixes/linux"
)

// system unpacks the system and opens it.
func system(t *testing.T) (string, *mounted.Root) {
	t.Helper()
	archive := os.Getenv("H2K_DEBROOT")
	if archive == "" {
		t.Fatal("H2K_DEBROOT names no archive: make test-debroot")
	}
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-C", dir, "--xattrs", "-xpf", archive).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", archive, err, out)
	}
	root, err := mounted.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return dir, root
}

// snapshot gives every byte and attribute of a tree, one line a file.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			line += " " + to
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		buf := make([]byte, 4096)
		if n, err := unix.Llistxattr(name, buf); err == nil {
			line += " " + string(buf[:n])
		}
		out[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func compare(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, was := range before {
		if after[name] != was {
			t.Errorf("%s is %q, was %q", name, after[name], was)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s was not there before", name)
		}
	}
}

func plan(t *testing.T, g *guest.Guest, opts linux.Options) *fixes.Planned {
	t.Helper()
	planned, err := fixes.Plan(t.Context(), g, linux.All(opts, nil), fixes.Selection{})
	if err == nil {
		err = planned.Failures()
	}
	if err != nil {
		t.Fatal(err)
	}
	return planned
}

func dpkg(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, _ := exec.Command("chroot", append([]string{dir, "dpkg"}, args...)...).CombinedOutput()
	return string(out)
}

// TestRemoveTools has dpkg remove the tools of two hypervisors, asks dpkg, and
// takes it back.
func TestRemoveTools(t *testing.T) {
	dir, root := system(t)
	g := &guest.Guest{FS: root, Run: mounted.NewRunner(root), Facts: inspect.Inspect(root, guest.Facts{})}
	for _, name := range []string{"open-vm-tools", "hyperv-daemons"} {
		if got := dpkg(t, dir, "-l", name); !strings.Contains(got, "\nii  "+name) {
			t.Fatalf("%s is not installed:\n%s", name, got)
		}
	}
	before := snapshot(t, dir)
	planned := plan(t, g, linux.Options{RemoveTools: true})
	compare(t, before, snapshot(t, dir)) // a trial leaves no trace
	for _, r := range planned.Results {
		for _, note := range r.Notes {
			t.Logf("%s: %s", r.ID, note)
		}
	}
	if !planned.Pending() || planned.Results[0].ID != "linux/remove-tools" || planned.Results[0].State != fixes.Pending {
		t.Fatalf("nothing is to be removed: %+v", planned.Results[0])
	}
	if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"open-vm-tools", "hyperv-daemons"} {
		if got := dpkg(t, dir, "-l", name); strings.Contains(got, "\nii  ") || strings.Contains(got, "\nrc  ") {
			t.Errorf("%s is still there:\n%s", name, got)
		}
	}
	if got := dpkg(t, dir, "--audit"); got != "" {
		t.Errorf("dpkg finds fault with its database: %s", got)
	}
	if got := dpkg(t, dir, "-V"); got != "" {
		t.Errorf("dpkg finds fault with files: %s", got)
	}
	for _, name := range []string{"usr/bin/vmtoolsd", "etc/vmware-tools", "usr/lib/systemd/system/open-vm-tools.service", "lib/systemd/system/open-vm-tools.service"} {
		if _, err := root.Lstat(name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if again := plan(t, g, linux.Options{RemoveTools: true}); again.Pending() {
		t.Errorf("a second run changes more: %+v", again.Results)
	}
	names, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("undo gave %d files and folders back", len(names))
	compare(t, before, snapshot(t, dir))
}

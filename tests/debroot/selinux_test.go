//go:build debroot

package debroot

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
	"hyper2kvm/fixes/linux"
	"hyper2kvm/fixes/selinux"
)

// TestAgainstMatchpathcon compares the labels of every path of a real Debian
// system, and of many that are not on it, with those of libselinux. The system
// comes from Debian's packages.
func TestAgainstMatchpathcon(t *testing.T) {
	root, tree := system(t)
	p, err := selinux.Load(tree)
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string][]string{"file": nil, "dir": nil, "lnk_file": nil}
	modes := map[string]fs.FileMode{"file": 0, "dir": fs.ModeDir, "lnk_file": fs.ModeSymlink}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, name)
		switch {
		case err != nil:
			return err
		case rel == "proc" || rel == "sys" || rel == "dev":
			return fs.SkipDir
		case strings.ContainsAny(rel, " \n"):
		case d.IsDir():
			asked["dir"] = append(asked["dir"], rel)
		case d.Type()&fs.ModeSymlink != 0:
			asked["lnk_file"] = append(asked["lnk_file"], rel)
		case d.Type().IsRegular():
			asked["file"] = append(asked["file"], rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{"file_contexts", "file_contexts.homedirs"} {
		data, err := os.ReadFile(filepath.Join(root, "etc/selinux/default/contexts/files", list))
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(data)) { // what the lists themselves speak of
			if f := strings.Fields(l); len(f) > 1 && f[0][0] == '/' {
				name := strings.NewReplacer("(/.*)?", "/a", ".*", "b", "[^/]*", "c", "[^/]+", "d", "?", "", "\\", "", "(", "", ")", "", "+", "").Replace(f[0])
				if name = strings.Trim(name, "/"); fs.ValidPath(name) && !strings.ContainsAny(name, "|[]{}^$*") {
					asked["file"] = append(asked["file"], name)
				}
			}
		}
	}
	checked, wrong := 0, 0
	for kind, names := range asked {
		for chunk := range slicesOf(names, 500) {
			for i, want := range matchpathcon(t, root, kind, chunk) {
				checked++
				got := p.Label(chunk[i], modes[kind])
				if got == "" {
					got = "<<none>>"
				}
				if got != want {
					if wrong++; wrong < 20 {
						t.Errorf("/%s (%s): label %s, matchpathcon says %s", chunk[i], kind, got, want)
					}
				}
			}
		}
	}
	t.Logf("%d paths, %d differ", checked, wrong)
	if checked < 5000 {
		t.Errorf("only %d paths were compared", checked)
	}
}

func slicesOf(names []string, n int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(names) > 0 {
			k := min(n, len(names))
			if !yield(names[:k]) {
				return
			}
			names = names[k:]
		}
	}
}

func matchpathcon(t *testing.T, root, kind string, names []string) []string {
	t.Helper()
	args := []string{root, "matchpathcon", "-f", "/etc/selinux/default/contexts/files/file_contexts", "-n", "-m", kind}
	for _, n := range names {
		args = append(args, path.Join("/", n))
	}
	out, err := exec.Command("chroot", args...).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil && !bytes.Contains(out, []byte("<<none>>")) || len(lines) != len(names) {
		t.Fatalf("matchpathcon: %v: %d lines for %d names\n%s", err, len(lines), len(names), out[:min(len(out), 2000)])
	}
	return lines
}

// setfiles labels a whole system, or with -n tells what it would label. It needs
// /proc, which the runner gives it.
func setfiles(t *testing.T, r *mounted.Runner, flags ...string) string {
	t.Helper()
	args := []string{"setfiles", "-F"}
	for _, skip := range []string{"/proc", "/sys", "/dev", "/run"} {
		args = append(args, "-e", skip)
	}
	out, err := r.Run(t.Context(), guest.Command{Args: append(append(args, flags...), "/etc/selinux/default/contexts/files/file_contexts", "/")})
	if err != nil {
		t.Fatalf("setfiles: %v\n%s", err, out)
	}
	return string(out)
}

// TestLabelsOfRepairedGuest has setfiles label a system, repairs it, and asks
// setfiles whether anything has a wrong label then.
func TestLabelsOfRepairedGuest(t *testing.T) {
	dir, root := system(t)
	run := mounted.NewRunner(root)
	setfiles(t, run)
	right, err := root.Label("etc/passwd")
	if err == nil {
		err = root.SetLabel("etc/passwd", []byte("system_u:object_r:shadow_t:s0\x00"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := setfiles(t, run, "-n", "-v"); !strings.Contains(out, "elabel") || !strings.Contains(out, "/etc/passwd") {
		t.Fatalf("setfiles does not see a wrong label: %s", out)
	}
	if err := root.SetLabel("etc/passwd", right); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	g := &guest.Guest{FS: root, Run: run, Facts: inspect.Inspect(root, guest.Facts{})}
	if g.Facts.SELinux != "permissive" {
		t.Fatalf("SELinux is %q", g.Facts.SELinux)
	}
	opts := linux.Options{RemoveTools: true, Agent: []linux.Package{{Name: "other.deb", Content: []byte("package")}}}
	if err := root.Remove("usr/sbin/qemu-ga"); err != nil {
		t.Fatal(err)
	}
	if err := fixes.Apply(t.Context(), g, plan(t, g, opts), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := root.Lstat("usr/local/lib/hyper2kvm/other.deb"); err != nil {
		t.Error(err)
	}
	if out := setfiles(t, run, "-n", "-v"); strings.Contains(out, "elabel") {
		t.Errorf("wrong labels:\n%s", out)
	}
	if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	delete(before, "usr/sbin/qemu-ga")
	compare(t, before, snapshot(t, dir))
	if out := setfiles(t, run, "-n", "-v"); strings.Contains(out, "elabel") {
		t.Errorf("wrong labels after undo:\n%s", out)
	}
}

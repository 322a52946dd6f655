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

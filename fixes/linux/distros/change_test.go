package distros

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// wholeChange is a fix that makes one tree of another.
type wholeChange []fixes.Change

func (wholeChange) ID() string                { return "all" }
func (wholeChange) Why() string               { return "to see all changes of a file in one piece" }
func (wholeChange) Applies(*guest.Facts) bool { return true }
func (w wholeChange) Plan(context.Context, *guest.Guest) (fixes.Proposal, error) {
	return fixes.Proposal{Changes: w}, nil
}

// journalDir is where the engine keeps what undo needs; it is no change of the
// guest that anybody plans.
const journalDir = "var/lib/hyper2kvm"

// changesBetween lists what is different in two trees, in the order of names.
// An initramfs, which was appended to, is left out.
func changesBetween(t *testing.T, before, after *guesttest.FS, dir string) []fixes.Change {
	t.Helper()
	var out []fixes.Change
	for _, name := range namesIn(t, before, after, dir) {
		was, wasErr := before.Lstat(name)
		now, nowErr := after.Lstat(name)
		switch {
		case name == journalDir:
		case nowErr != nil && was.IsDir():
			t.Errorf("the folder %s is gone", name)
		case nowErr != nil:
			out = append(out, fixes.Remove{Name: name})
		case now.IsDir():
			out = append(out, changesBetween(t, before, after, name)...)
		case now.Mode()&fs.ModeSymlink != 0:
			target, err := after.ReadLink(name)
			if err != nil {
				t.Fatal(err)
			}
			if old, err := before.ReadLink(name); err != nil || old != target {
				out = append(out, fixes.Symlink{Name: name, To: target})
			}
		default:
			content := after.ReadFile(t, name)
			attr, err := after.Attr(name)
			if err != nil {
				t.Fatal(err)
			}
			if wasErr == nil && was.Mode().IsRegular() {
				if old := before.ReadFile(t, name); old == content || isImage([]byte(old)) {
					continue
				}
			}
			out = append(out, fixes.WriteFile{Name: name, Content: []byte(content), Attr: &attr})
		}
	}
	return out
}

// isImage tells an initramfs by how it begins.
func isImage(data []byte) bool {
	return slices.ContainsFunc([]string{"070701", "\x1f\x8b", "\xfd7zXZ", "\x28\xb5\x2f\xfd", "\x02\x21\x4c\x18"},
		func(magic string) bool { return bytes.HasPrefix(data, []byte(magic)) })
}

func namesIn(t *testing.T, before, after *guesttest.FS, dir string) []string {
	t.Helper()
	var out []string
	for _, tree := range []*guesttest.FS{before, after} {
		entries, err := tree.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

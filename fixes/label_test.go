package fixes_test

import (
	"context"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

const labelTree = `
-- etc/selinux/config --
SELINUX=enforcing
SELINUXTYPE=targeted
-- etc/fstab xattr.security.selinux=old_fstab --
a
-- etc/plain --
no label
-- etc/systemd/system/x.service link=/dev/null xattr.security.selinux=old_link --
-- etc/systemd/system/y.service xattr.security.selinux=old_unit --
-- boot/ xattr.security.selinux=boot_dir --
-- usr/bin/prog mode=0755 --
`

const labelList = `-- etc/selinux/targeted/contexts/files/file_contexts --
/.*	default_t
/etc(/.*)?	etc_t
/etc/systemd/system(/.*)?	unit_t
/etc/made	-d	made_dir_t
/boot(/.*)?	<<none>>
/var/lib(/.*)?	var_lib_t
`

func labelChanges() []fixes.Change {
	return []fixes.Change{
		fixes.WriteFile{Name: "etc/fstab", Content: []byte("b\n")},
		fixes.WriteFile{Name: "etc/plain", Content: []byte("b\n")},
		fixes.WriteFile{Name: "etc/made/file", Content: []byte("new\n")},
		fixes.WriteFile{Name: "boot/new", Content: []byte("new\n")},
		fixes.CopyFile{From: "etc/fstab", Name: "boot/copy"},
		fixes.Symlink{Name: "etc/systemd/system/x.service", To: "/lib/x"},
		fixes.Symlink{Name: "etc/systemd/system/y.service", To: "/dev/null"},
		fixes.Symlink{Name: "etc/systemd/system/z.service", To: "/dev/null"},
		fixes.Command{Command: guest.Command{Args: []string{"prog"}}, Touches: []string{"boot/image", "etc/image", "etc/absent"}},
	}
}

// maker is a guest whose program makes two files, without labels.
type maker struct{ tree *guesttest.FS }

func (m maker) Run(context.Context, guest.Command) ([]byte, error) {
	m.tree.Put("boot/image", []byte("image"))
	m.tree.Put("etc/image", []byte("image"))
	return nil, nil
}

func applyLabelled(t *testing.T, archive, mode string) (*guesttest.FS, func()) {
	t.Helper()
	tree := guesttest.New(t, archive)
	before := tree.Dump()
	g := &guest.Guest{FS: tree, Run: maker{tree}, Facts: &guest.Facts{SELinux: mode}}
	planned, err := fixes.Plan(t.Context(), g, []fixes.Fix{simple{"label", labelChanges()}}, fixes.Selection{})
	if err == nil {
		err = planned.Failures()
	}
	if err == nil {
		err = fixes.Apply(t.Context(), g, planned, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tree, func() {
		if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
			t.Fatal(err)
		}
		if tree.Dump() != before {
			t.Errorf("undo leaves something else:\n%s\nbefore:\n%s", tree.Dump(), before)
		}
	}
}

type simple struct {
	id      string
	changes []fixes.Change
}

func (s simple) ID() string              { return s.id }
func (simple) Why() string               { return "A test." }
func (simple) Applies(*guest.Facts) bool { return true }
func (s simple) Plan(context.Context, *guest.Guest) (fixes.Proposal, error) {
	return fixes.Proposal{Changes: s.changes}, nil
}

func wantLabels(t *testing.T, tree *guesttest.FS, want map[string]string) {
	t.Helper()
	for name, label := range want {
		got, err := tree.Label(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if text := strings.TrimRight(string(got), "\x00"); text != label {
			t.Errorf("%s has label %q, want %q", name, text, label)
		}
	}
}

func TestNewFilesHaveLabels(t *testing.T) {
	tree, undo := applyLabelled(t, labelTree+labelList, "enforcing")
	wantLabels(t, tree, map[string]string{
		"etc/fstab": "old_fstab", "etc/plain": "", "etc/made": "made_dir_t", "etc/made/file": "etc_t",
		"boot/new": "boot_dir", "boot/copy": "boot_dir", "boot/image": "boot_dir", "etc/image": "etc_t",
		"etc/systemd/system/x.service": "old_link", "etc/systemd/system/y.service": "old_unit", "etc/systemd/system/z.service": "unit_t",
		"var/lib/hyper2kvm": "var_lib_t", "var/lib/hyper2kvm/journal.json": "var_lib_t", "var/lib/hyper2kvm/backup": "var_lib_t",
		"var/lib/hyper2kvm/backup/1": "var_lib_t",
	})
	undo()
}

func TestLabelsWithoutList(t *testing.T) {
	tree, undo := applyLabelled(t, labelTree, "permissive")
	wantLabels(t, tree, map[string]string{"boot/new": "boot_dir", "boot/image": "boot_dir", "etc/made/file": "", "etc/fstab": "old_fstab"})
	undo()
}

func TestNoLabelsWhereSELinuxIsOff(t *testing.T) {
	for _, mode := range []string{"disabled", ""} {
		tree, undo := applyLabelled(t, labelTree+labelList, mode)
		wantLabels(t, tree, map[string]string{"boot/new": "", "etc/made": "", "var/lib/hyper2kvm/journal.json": "", "etc/image": "", "etc/fstab": "old_fstab"})
		undo()
	}
}

package initramfs

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// loadRoot copies what the fix looks at from an unpacked guest into memory.
func loadRoot(t testing.TB, root, initrd string) (*guesttest.FS, *guest.Facts) {
	t.Helper()
	tree := guesttest.Empty()
	copyTree(t, tree, root, "etc/initramfs-tools", "etc/dracut.conf.d", "etc/systemd/network", "etc/udev/rules.d", "usr/lib/modules")
	facts := &guest.Facts{OS: guest.OS{Family: "linux"}, Initramfs: string(initramfsTools)}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/dracut")); err == nil {
		facts.Initramfs = string(dracut)
	}
	versions, err := os.ReadDir(filepath.Join(root, "usr/lib/modules"))
	if err != nil || len(versions) != 1 {
		t.Fatalf("kernels of %s: %v, %v", root, versions, err)
	}
	v := versions[0].Name()
	if initrd == "" {
		initrd = filepath.Join(root, "boot/initrd.img-"+v)
	}
	for name, from := range map[string]string{"boot/initrd.img-" + v: initrd, "boot/config-" + v: filepath.Join(root, "boot/config-"+v)} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		tree.Put(name, data)
	}
	facts.Kernels = []guest.Kernel{{
		Version: v, Image: "boot/vmlinuz-" + v, Initramfs: "boot/initrd.img-" + v, Modules: "usr/lib/modules/" + v, Default: true,
	}}
	return tree, facts
}

func copyTree(t testing.TB, tree *guesttest.FS, root string, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				if os.IsNotExist(err) {
					return nil
				}
				return err
			}
			rel, _ := filepath.Rel(root, name)
			data, err := os.ReadFile(name)
			tree.Put(rel, data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestRealRoot injects into the initramfs of an unpacked guest that
// H2K_INITRAMFS_ROOT names, and writes the result to H2K_INITRAMFS_OUT for a
// boot. H2K_INITRAMFS_IMAGE is another initramfs than the guest's own.
func TestRealRoot(t *testing.T) {
	root := os.Getenv("H2K_INITRAMFS_ROOT")
	if root == "" {
		t.Skip("H2K_INITRAMFS_ROOT names no unpacked guest")
	}
	tree, facts := loadRoot(t, root, os.Getenv("H2K_INITRAMFS_IMAGE"))
	g := &guest.Guest{FS: tree, Facts: facts}
	ctx := context.Background()
	before := tree.Dump()
	findings, err := Verify(ctx, g)
	if err != nil || len(findings) == 0 {
		t.Fatalf("before: %v, %v: nothing to do", findings, err)
	}
	t.Log(findings)
	p, err := fixes.Plan(ctx, g, Fixes(Options{}), fixes.Selection{})
	if err != nil || p.Failures() != nil {
		t.Fatal(err, p.Failures())
	}
	t.Logf("%s\n%s", p.Results[0].Diff, strings.Join(p.Results[0].Notes, "\n"))
	if err := fixes.Apply(ctx, g, p, nil); err != nil {
		t.Fatal(err)
	}
	if findings, err = Verify(ctx, g); err != nil || len(findings) > 0 {
		t.Fatalf("after: %v, %v", findings, err)
	}
	p, err = fixes.Plan(ctx, g, Fixes(Options{}), fixes.Selection{})
	if err != nil || p.Results[0].State != fixes.Unchanged {
		t.Errorf("second run: %v, %+v", err, p.Results[0])
	}
	if out := os.Getenv("H2K_INITRAMFS_OUT"); out != "" {
		if err := os.WriteFile(out, []byte(tree.ReadFile(t, facts.Kernels[0].Initramfs)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fixes.Undo(ctx, g, fixes.UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	if tree.Dump() != before {
		t.Error("undo does not give back the tree")
	}
}

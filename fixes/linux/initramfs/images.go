package initramfs

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// images lists the kernels once for each image that they have, the one that the
// guest starts first: it must get the room that there is. Beside the image that
// inspection found, a kernel may have a fallback in /boot, and those that
// kernel-install put beside its boot loader entry.
func images(g *guest.Guest) []guest.Kernel {
	l := &lister{tree: g.FS, seen: map[string]bool{}}
	// One that cannot run on KVM stays as it is, for the way back.
	kernels := slices.DeleteFunc(slices.Clone(g.Facts.Kernels), func(k guest.Kernel) bool { return k.Unfit != "" && !k.Emulated() })
	if len(kernels) > 0 && !slices.ContainsFunc(kernels, func(k guest.Kernel) bool { return k.Default }) {
		kernels[0].Default = true
	}
	slices.SortStableFunc(kernels, func(a, b guest.Kernel) int { return order(b.Default) - order(a.Default) })
	entries := l.entries(g.Facts)
	for _, k := range kernels {
		l.add(k)
		if base, ok := strings.CutSuffix(k.Initramfs, ".img"); ok {
			l.addExisting(k, base+"-fallback.img")
		}
		for _, name := range entries[path.Base(k.Modules)] {
			l.addExisting(k, name)
		}
		delete(entries, path.Base(k.Modules))
	}
	l.addOnlyEntries(entries)
	return l.out
}

func order(is bool) int {
	if is {
		return 1
	}
	return 0
}

type lister struct {
	tree guest.FS
	seen map[string]bool // images, links followed
	out  []guest.Kernel
}

// add adds a kernel with its image, unless another has the same one.
func (l *lister) add(k guest.Kernel) {
	if k.Initramfs != "" {
		real, err := guest.Resolve(l.tree, k.Initramfs)
		if err != nil {
			real = k.Initramfs
		}
		if l.seen[real] {
			return
		}
		l.seen[real] = true
	}
	l.out = append(l.out, k)
}

// addExisting adds a further image of a kernel. The guest starts without it.
func (l *lister) addExisting(k guest.Kernel, image string) {
	if info, err := l.tree.Stat(image); err != nil || !info.Mode().IsRegular() {
		return
	}
	k.Initramfs, k.Default = image, false
	l.add(k)
}

// addOnlyEntries adds the kernels that have an image beside a boot loader entry
// alone and that inspection did not list.
func (l *lister) addOnlyEntries(entries map[string][]string) {
	dirs, _ := l.tree.ReadDir("lib/modules")
	for _, dir := range dirs {
		for _, name := range entries[dir.Name()] {
			modules, err := guest.Resolve(l.tree, path.Join("lib/modules", dir.Name()))
			if err != nil {
				continue
			}
			l.addExisting(guest.Kernel{Version: dir.Name(), Image: path.Join(path.Dir(name), "linux"), Modules: modules}, name)
		}
	}
}

// entries finds the images of kernel-install(8), by version: in
// $BOOT/TOKEN/VERSION, $BOOT being the EFI system partition or the boot one.
func (l *lister) entries(facts *guest.Facts) map[string][]string {
	out := map[string][]string{}
	boots := []string{"boot", "efi", "boot/efi"}
	if esp := facts.Loader.ESP; esp != "" && !slices.Contains(boots, esp) {
		boots = append(boots, esp)
	}
	for _, boot := range boots {
		tokens, _ := l.tree.ReadDir(boot)
		for _, token := range tokens {
			if !token.IsDir() || strings.EqualFold(token.Name(), "EFI") || strings.HasPrefix(token.Name(), "grub") {
				continue
			}
			versions, _ := l.tree.ReadDir(path.Join(boot, token.Name()))
			for _, version := range versions {
				dir := path.Join(boot, token.Name(), version.Name())
				if version.IsDir() {
					out[version.Name()] = append(out[version.Name()], l.imagesIn(dir)...)
				}
			}
		}
	}
	return out
}

// imagesIn lists the images in the folder of an entry: initrd, SUSE's
// initrd-HASH, dracut's initrd-VERSION.
func (l *lister) imagesIn(dir string) []string {
	files, _ := l.tree.ReadDir(dir)
	var out []string
	for _, f := range files {
		name := f.Name()
		if !strings.HasPrefix(name, "initrd") && !strings.HasPrefix(name, "initramfs") || strings.Contains(name, "kdump") {
			continue
		}
		if ext := path.Ext(name); ext == ".old" || ext == ".new" || ext == ".bak" || ext == ".sha256" || ext == ".sig" {
			continue
		}
		out = append(out, path.Join(dir, name))
	}
	return out
}

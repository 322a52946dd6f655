package inspect

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// entryKernels adds kernels that are started from elsewhere than /boot:
// kernel-install copies kernel and initramfs to $BOOT/TOKEN/VERSION, which lies
// on the ESP or its extension, and writes an entry for the copies
// (kernel-install(8), 90-loaderentry.install). What is in /boot is not booted
// then.
func (f *finder) entryKernels() {
	for _, top := range []string{f.facts.Loader.ESP, "boot"} {
		if top == "" {
			continue
		}
		for _, name := range f.list(path.Join(top, "loader/entries"), ".conf") {
			data, _ := f.read(name)
			f.entryKernel(top, blsKeys(data))
		}
	}
}

// blsKeys gives the first word of each key of a boot entry of type 1. Of a key
// that is given several times the last counts: an image with microcode comes
// before the one that finds the root.
func blsKeys(data []byte) map[string]string {
	keys := map[string]string{}
	for _, l := range lines(data) {
		words := strings.Fields(l)
		if len(words) > 1 {
			keys[words[0]] = words[1]
		}
	}
	return keys
}

// entryKernel adds the kernel of an entry whose paths begin at top.
func (f *finder) entryKernel(top string, entry map[string]string) {
	modules, err := guest.Resolve(f.tree, "lib/modules/"+entry["version"])
	if err != nil || entry["version"] == "" || !f.isDir(modules) {
		return
	}
	k := guest.Kernel{Version: entry["version"], Image: path.Join(top, path.Clean("/"+entry["linux"])), Modules: modules}
	known := slices.ContainsFunc(f.facts.Kernels, func(have guest.Kernel) bool { return have.Image == k.Image })
	if known || !f.isFile(k.Image) {
		return
	}
	if initrd := path.Join(top, path.Clean("/"+entry["initrd"])); f.isFile(initrd) {
		k.Initramfs = initrd
	}
	f.facts.Kernels = append(f.facts.Kernels, k)
}

func (f *finder) isFile(name string) bool {
	info, err := f.tree.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

package inspect

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes/guest"
)

// kernels lists the installed kernels: an image in /boot whose
// version has a folder of modules. A rescue image has none; it carries its
// drivers itself.
func (f *finder) kernels() {
	boot := f.list("boot", "")
	for _, image := range boot {
		version, ok := f.versionOf(image)
		if !ok || !f.isDir("lib/modules/"+version) {
			continue
		}
		if info, err := f.tree.Stat(image); err != nil || !info.Mode().IsRegular() {
			continue
		}
		modules, err := guest.Resolve(f.tree, "lib/modules/"+version)
		if err != nil {
			continue
		}
		f.facts.Kernels = append(f.facts.Kernels, guest.Kernel{
			Version: version, Image: image, Initramfs: initramfsOf(boot, path.Base(image), version), Modules: modules,
		})
	}
}

// versionOf takes the version from the name of a kernel image. Arch and Alpine
// name an image after its flavour: the image itself, else the folder of modules,
// tells the version.
func (f *finder) versionOf(image string) (string, bool) {
	name := path.Base(image)
	for _, prefix := range []string{"vmlinuz-", "vmlinux-", "image-", "kernel-", "Image-"} {
		version, ok := strings.CutPrefix(name, prefix)
		if !ok || version == "" {
			continue
		}
		for _, suffix := range []string{".gz", ".old", ".bak", ".hmac", ".sig", ".efi.signed"} {
			if strings.HasSuffix(version, suffix) {
				return "", false
			}
		}
		if version[0] >= '0' && version[0] <= '9' {
			return version, true
		}
		if own := f.imageVersion(image); own != "" && !strings.Contains(version, "rescue") {
			return own, true
		}
		return f.flavour(version)
	}
	return "", false
}

func (f *finder) flavour(name string) (string, bool) {
	for _, dir := range f.list("lib/modules", "") {
		version := path.Base(dir)
		base, _ := f.read(dir + "/pkgbase")
		if strings.HasSuffix(version, "-"+name) || strings.TrimSpace(string(base)) == name {
			return version, true
		}
	}
	return "", false
}

// initramfsOf finds the image that goes with a kernel among the files of /boot.
// The shortest name that holds the whole version wins: those of a version of
// which this one is the beginning are longer, and so are fallbacks.
func initramfsOf(boot []string, image, version string) string {
	_, flavour, _ := strings.Cut(image, "-")
	best := ""
	for _, name := range boot {
		base := path.Base(name)
		if !strings.HasPrefix(base, "initrd") && !strings.HasPrefix(base, "initramfs") || strings.Contains(base, "kdump") {
			continue
		}
		_, rest, ok := strings.Cut(base, "-")
		if !ok || rest != flavour && rest != version && rest != flavour+".img" && rest != version+".img" && rest != flavour+".gz" {
			continue
		}
		if best == "" || len(name) < len(best) {
			best = name
		}
	}
	return best
}

// CompareVersions orders kernel versions: runs of digits by value, all else by
// its bytes; what is longer is newer.
func CompareVersions(a, b string) int {
	as, bs := versionParts.FindAllString(a, -1), versionParts.FindAllString(b, -1)
	for i := 0; i < len(as) && i < len(bs); i++ {
		if as[i] == bs[i] {
			continue
		}
		an, aErr := strconv.ParseUint(as[i], 10, 64)
		bn, bErr := strconv.ParseUint(bs[i], 10, 64)
		switch {
		case aErr != nil && bErr != nil:
			return strings.Compare(as[i], bs[i])
		case aErr != nil: // 6.1-rc1 is older than 6.1.1
			return -1
		case bErr != nil:
			return 1
		case an != bn:
			if an < bn {
				return -1
			}
			return 1
		}
	}
	return len(as) - len(bs)
}

var versionParts = regexp.MustCompile(`[0-9]+|[A-Za-z]+`)

// chooseDefault marks the kernel that the boot loader starts, as far as its menu
// tells; else the newest. Then it finds out what each kernel can do.
func (f *finder) chooseDefault() {
	ks := f.facts.Kernels
	if len(ks) == 0 {
		f.warn("no installed kernel was found")
		return
	}
	slices.SortStableFunc(ks, func(a, b guest.Kernel) int { return CompareVersions(b.Version, a.Version) })
	chosen := f.enteredKernel()
	if chosen < 0 {
		chosen = f.firstKernel()
	}
	ks[max(chosen, 0)].Default = true
	for i := range ks {
		ks[i].Support = f.support(&ks[i])
	}
}

// enteredKernel finds the kernel of the default entry: by its file, else by the
// version that its title holds.
func (f *finder) enteredKernel() int {
	for _, e := range f.facts.Loader.Entries {
		if !e.Default {
			continue
		}
		if i := slices.IndexFunc(f.facts.Kernels, func(k guest.Kernel) bool { return k.Image == e.Image }); i >= 0 {
			return i
		}
		return f.kernelIn(e.Name + " " + e.Title)
	}
	return -1
}

// kernelIn finds the kernel whose version a text holds, the longest that fits.
func (f *finder) kernelIn(text string) int {
	best, length := -1, 0
	for i, k := range f.facts.Kernels {
		if strings.Contains(text, k.Version) && len(k.Version) > length {
			best, length = i, len(k.Version)
		}
	}
	return best
}

// firstKernel finds the kernel that a configuration of GRUB without a menu
// starts.
func (f *finder) firstKernel() int {
	data, _ := f.first("boot/grub2/grub.cfg", "boot/grub/grub.cfg")
	for _, l := range lines(data) {
		if words := strings.Fields(l); len(words) > 1 && strings.HasPrefix(words[0], "linux") {
			if i := f.kernelIn(words[1]); i >= 0 {
				return i
			}
		}
	}
	return -1
}

// generator tells what makes the guest's initramfs: by the programs that are
// there, and by the package state where two are.
func (f *finder) generator() string {
	tools := f.exists("usr/sbin/mkinitramfs") || f.exists("sbin/mkinitramfs")
	if tools && f.wrapsDracut("usr/sbin/update-initramfs") {
		tools = false
	}
	dracut := f.exists("usr/bin/dracut") || f.exists("usr/sbin/dracut") || f.exists("sbin/dracut")
	switch {
	case tools && dracut:
		if f.installed("dracut") && !f.installed("initramfs-tools") {
			return "dracut"
		}
		return "initramfs-tools"
	case tools:
		return "initramfs-tools"
	case dracut:
		return "dracut"
	}
	for _, g := range []struct{ name, file string }{
		{"mkinitcpio", "usr/bin/mkinitcpio"}, {"mkinitfs", "sbin/mkinitfs"}, {"mkinitfs", "usr/sbin/mkinitfs"},
		{"booster", "usr/bin/booster"}, {"make-initrd", "usr/sbin/make-initrd"}, {"genkernel", "usr/bin/genkernel"},
		{"tiny-initramfs", "usr/sbin/mktirfs"}, {"mkinitrd", "sbin/mkinitrd"}, {"mkinitrd", "usr/sbin/mkinitrd"},
	} {
		if f.exists(g.file) {
			return g.name
		}
	}
	return ""
}

// wrapsDracut reports whether update-initramfs is the stand-in that comes with
// dracut on Debian and Ubuntu.
func (f *finder) wrapsDracut(name string) bool {
	data, ok := f.read(name)
	return ok && bytes.Contains(data, []byte("dracut")) && !bytes.Contains(data, []byte("mkinitramfs"))
}

// maxStatus bounds dpkg's list of packages: a desktop's has about 5 MiB.
const maxStatus = 64 << 20

// installed asks dpkg's list (dpkg-query(1)) for a package.
func (f *finder) installed(name string) bool {
	data, err := readUpTo(f.tree, "var/lib/dpkg/status", maxStatus)
	if err != nil {
		return false
	}
	_, rest, ok := bytes.Cut(append([]byte("\n"), data...), []byte("\nPackage: "+name+"\n"))
	if !ok {
		return false
	}
	record, _, _ := bytes.Cut(rest, []byte("\n\n"))
	return bytes.Contains(record, []byte("Status: install ok installed"))
}

package initramfs

import (
	"path"
	"regexp"
	"strings"

	"hyper2kvm/formats/cpio"
)

// layout is the way in which an image is put together, told by what is in it:
// the program that made it need not be installed any more, or another has taken
// its place. It decides what makes the image load a driver.
type layout string

// The layouts; where Facts.Initramfs has a name for the program, it is that.
const (
	unknownLayout  layout = ""
	initramfsTools layout = "initramfs-tools"
	dracut         layout = "dracut"
	mkinitcpio     layout = "mkinitcpio"
	mkinitfs       layout = "mkinitfs"
	// suse is mkinitrd of SUSE 11, whose scripts load what a variable lists.
	suse layout = "SUSE mkinitrd"
	// scripted is an init with a line for each module: mkinitrd of Red Hat 4
	// and 5 (nash) and of SUSE up to 10.
	scripted layout = "mkinitrd"
	// systemd is an image whose init is systemd and of which no more is known.
	systemd layout = "systemd"

	// These are known by name, and nothing is put into them.
	booster    layout = "booster"
	genkernel  layout = "genkernel"
	makeInitrd layout = "make-initrd"
	tiny       layout = "tiny-initramfs"
)

// layoutOf tells the layout of an image, by marks in the order in which they are
// sure.
func layoutOf(img *image) layout {
	switch {
	case img.exists("usr/lib/dracut", "lib/dracut", "usr/lib/dracut-lib.sh", "lib/dracut-lib.sh"):
		return dracut
	case img.exists("init_functions") && img.exists("config"):
		return mkinitcpio
	case img.exists("sbin/nlplug-findfs", "usr/sbin/nlplug-findfs"):
		return mkinitfs
	case img.exists("conf/initramfs.conf", "conf/arch.conf", "scripts/init-premount", "scripts/functions"):
		return initramfsTools
	case img.exists("run_all.sh", "config/start.sh"):
		return suse
	case img.exists("etc/booster.init.yaml"):
		return booster
	case img.exists("etc/initrd.defaults"):
		return genkernel
	case img.exists("lib/initrd", "etc/initrd"):
		return makeInitrd
	case img.has("modules") && img.has("init") && !img.exists("bin", "usr"):
		return tiny
	case img.script() != "":
		return scripted
	case img.startsSystemd():
		return systemd
	}
	return unknownLayout
}

// exists reports whether the image has one of those, of whatever type.
func (img *image) exists(names ...string) bool {
	for _, name := range names {
		if _, ok := img.members[img.canonical(name)]; ok {
			return true
		}
	}
	return false
}

// insert is a line of an init that loads a module, at the left edge: not in a
// function or a condition.
var insert = regexp.MustCompile(`(?m)^(?:/?s?bin/)?(?:insmod|modprobe)[ \t]+(\S+).*\n?`)

// script names the file that loads modules line by line: init, or linuxrc in
// images made for an older kernel; "" where there is none.
func (img *image) script() string {
	for _, name := range []string{"init", "linuxrc"} {
		data, ok := img.file(name)
		if ok && strings.HasPrefix(string(data), "#!") && (nash.Match(data) || insert.Match(data)) {
			return name
		}
	}
	return ""
}

// nash is the shell of Red Hat's mkinitrd.
var nash = regexp.MustCompile(`^#![ \t]*/s?bin/nash`)

func (img *image) startsSystemd() bool {
	m, ok := img.members["init"]
	return ok && m.mode&cpio.TypeMask == cpio.TypeLink && path.Base(string(m.data)) == "systemd"
}

// told says what a user does about an image that nothing is put into.
func (l layout) told() string {
	switch l {
	case booster:
		return "set modules_force_load in /etc/booster.yaml and run booster build on the source"
	case genkernel:
		return "run genkernel --virtio initramfs on the source"
	case makeInitrd:
		return "add the drivers to MODULES_ADD in /etc/initrd.mk and run make-initrd on the source"
	case tiny:
		return "run mktirfs --include-modules with the drivers on the source"
	}
	return "make it anew on the source with the drivers in it"
}

package linux

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// What otherConfigs looks at, at most: over SSH each file costs some round trips.
const (
	scanFiles = 1000
	scanDepth = 4
	scanSize  = 256 << 10 // bytes of a file
	scanTold  = 20        // files in notes
)

// otherName finds names of disks that break, in configurations that no fix knows.
var otherName = regexp.MustCompile(`/dev/(?:(?:sd|hd|xvd)[a-z]{1,2}[0-9]*|nvme[0-9]+n[0-9]+(?:p[0-9]+)?|cciss/c[0-9]+d[0-9]+(?:p[0-9]+)?|disk/by-(?:path|id)/[A-Za-z0-9._:+-]+|mapper/mpath[a-z]+[0-9p]*)\b`)

// knownConfigs are files and folders of /etc that a fix edits or that hold no
// configuration of applications.
func knownConfigs() []string {
	return []string{
		"etc/fstab", "etc/crypttab", "etc/update-extlinux.conf", "etc/default/grub", "etc/default/grub.d", "etc/default/grub_installdevice", "etc/mtab", "etc/lilo.conf", "etc/zipl.conf",
		"etc/sysconfig/bootloader", "etc/sysconfig/rawdevices", "etc/default/rawdevices", "etc/raw", "etc/kdump.conf", "etc/smartd.conf", "etc/smartmontools/smartd.conf",
		"etc/uswsusp.conf", "etc/initramfs-tools", "etc/dracut.conf", "etc/dracut.conf.d", "etc/kernel", "etc/cmdline.d", "etc/systemd", "etc/mdadm", "etc/mdadm.conf",
		"etc/lvm", "etc/multipath", "etc/multipath.conf", "etc/udev", "etc/grub.conf", "etc/grub2.cfg", "etc/grub2-efi.cfg", "etc/blkid", "etc/blkid.tab",
		"etc/ssl", "etc/pki", "etc/alternatives", "etc/selinux", "etc/apparmor.d", "etc/fonts", "etc/X11", "etc/terminfo", "etc/ca-certificates", "etc/pam.d",
		"etc/skel", "etc/java", "etc/perl", "etc/xdg", "etc/profile.d", "etc/bash_completion.d", "etc/modprobe.d", "etc/grub.d", "etc/zfs", "etc/ssh", "etc/dpkg",
		"etc/rc0.d", "etc/rc1.d", "etc/rc2.d", "etc/rc3.d", "etc/rc4.d", "etc/rc5.d", "etc/rc6.d", "etc/rcS.d", "etc/services", "etc/magic",
	}
}

// otherConfigs names the files of applications that name disks by what changes:
// they are nobody's to edit but their owners'.
func (e serviceEditor) otherConfigs() {
	s := scanner{planner: e.planner, left: scanFiles}
	s.walk("etc", 1)
	for i, f := range s.found {
		if i == scanTold {
			e.note("%d more files in etc name disks by kernel name, bus or serial number", len(s.found)-i)
			break
		}
		e.note("%s; left: an application's own", f)
	}
	if s.left <= 0 {
		e.note("more than %d files in etc: the rest was not searched for names of disks", scanFiles)
	}
}

type scanner struct {
	*planner
	left  int
	found []string
}

func (s *scanner) walk(dir string, depth int) {
	entries, err := s.fs.ReadDir(dir)
	if err != nil || depth > scanDepth {
		return
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, entry := range entries {
		name := path.Join(dir, entry.Name())
		if slices.Contains(knownConfigs(), name) || strings.HasSuffix(name, "~") || strings.HasPrefix(entry.Name(), "auto.") {
			continue
		}
		switch {
		case entry.IsDir():
			s.walk(name, depth+1)
		case entry.Type().IsRegular() && s.left > 0:
			s.left--
			s.file(name)
		}
	}
}

func (s *scanner) file(name string) {
	info, err := s.fs.Lstat(name)
	if err != nil || info.Size() > scanSize || info.Size() == 0 {
		return
	}
	data, ok := s.read(name)
	if !ok || bytes.IndexByte(data, 0) >= 0 {
		return
	}
	for i, l := range strings.Split(string(data), "\n") {
		t := strings.TrimSpace(l)
		if t == "" || strings.ContainsRune("#;!", rune(t[0])) || strings.HasPrefix(t, "//") {
			continue
		}
		if m := otherName.FindString(t); m != "" {
			s.found = append(s.found, fmt.Sprintf("%s line %d names %s", name, i+1, m))
			return
		}
	}
}

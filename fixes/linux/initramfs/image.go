package initramfs

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/cpio"
	"hyper2kvm/formats/kmod"
)

// Bounds on what is kept of an image, in bytes. Real index files are below
// 2 MiB.
const (
	maxKept  = 16 << 20
	maxTotal = 128 << 20
	// perMember is about what a member costs beside its name and content.
	perMember = 64
)

// image is what an initramfs unpacks to: the names of everything, the content
// of what matters here. Later members have replaced earlier ones.
type image struct {
	name     string // in the guest
	size     int64  // of the file, bytes
	last     string // compression of the last segment
	members  map[string]member
	usrMerge bool // lib is a link to usr/lib
}

type member struct {
	mode uint32
	data []byte // content where keep says so; the target of a link
}

// readImage reads the initramfs called name.
func readImage(tree guest.FS, name string) (*image, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readImageFrom(f, name)
}

func readImageFrom(from io.Reader, name string) (*image, error) {
	r := cpio.NewReader(from, cpio.Limits{})
	defer r.Close()
	raw, err := readMembers(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	img := &image{name: name, size: r.Size(), members: map[string]member{}}
	if s := r.Segments(); len(s) > 0 {
		img.last = s[len(s)-1].Compression
	}
	if lib, ok := lastOf(raw, "lib"); ok && lib.mode&cpio.TypeMask == cpio.TypeLink {
		img.usrMerge = strings.Trim(string(lib.data), "/") == "usr/lib"
	}
	for _, m := range raw {
		img.members[img.canonical(m.name)] = m.member
	}
	return img, nil
}

type named struct {
	name string
	member
}

func readMembers(r *cpio.Reader) ([]named, error) {
	var out []named
	total := int64(0)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		m := named{h.Name, member{mode: h.Mode}}
		if h.IsLink() || h.IsFile() && (keep(h.Name) || keepSmall(h.Name) && h.Size <= maxConfig) {
			if m.data, err = r.ReadAll(maxKept); err != nil {
				return nil, err
			}
			if total += int64(len(m.data)); total > maxTotal {
				return nil, fmt.Errorf("the files to look into have more than %d bytes", maxTotal)
			}
		}
		if total += int64(len(h.Name)) + perMember; total > maxTotal {
			return nil, fmt.Errorf("the names of its files have more than %d bytes", maxTotal)
		}
		out = append(out, m)
	}
}

func lastOf(members []named, name string) (member, bool) {
	for i := len(members) - 1; i >= 0; i-- {
		if members[i].name == name {
			return members[i].member, true
		}
	}
	return member{}, false
}

// keep tells the files whose content decides something.
func keep(name string) bool {
	if _, ok := storageConfigs()[name]; ok {
		return true
	}
	dir, base := path.Split(name)
	switch {
	case strings.HasSuffix(name, ".link") && strings.HasSuffix(dir, "systemd/network/"),
		strings.HasSuffix(name, ".rules") && strings.HasSuffix(dir, "udev/rules.d/"),
		strings.HasSuffix(dir, "initqueue/finished/"),
		strings.HasSuffix(dir, ".device.d/"),
		dir == "etc/cmdline.d/",
		isModprobeConf(name),
		dir == "conf/conf.d/",
		name == "conf/modules",
		name == "etc/lvm/devices/system.devices":
		return true
	}
	return strings.Contains(dir, "lib/modules/") && (base == "modules.dep" || base == "modules.alias" || base == "modules.softdep")
}

// keepSmall tells the files that decide something unless they are programs.
func keepSmall(name string) bool {
	switch name {
	case "init", "linuxrc", "config", "run_all.sh", "config/start.sh", "etc/modules":
		return true
	}
	return false
}

// canonical gives the name under which a member ends up once lib is a link.
func (img *image) canonical(name string) string {
	if img.usrMerge && strings.HasPrefix(name, "lib/") {
		return "usr/" + name
	}
	return name
}

// file returns the content of a regular file that was kept.
func (img *image) file(name string) ([]byte, bool) {
	m, ok := img.members[img.canonical(name)]
	if !ok || m.mode&cpio.TypeMask != cpio.TypeFile {
		return nil, false
	}
	return m.data, true
}

// has reports whether there is a regular file called name.
func (img *image) has(name string) bool {
	m, ok := img.members[img.canonical(name)]
	return ok && m.mode&cpio.TypeMask == cpio.TypeFile
}

// modulesDir is where the image keeps the modules of a kernel version.
func (img *image) modulesDir(version string) string {
	for _, dir := range []string{"usr/lib/modules/" + version, "lib/modules/" + version} {
		for name := range img.members {
			if strings.HasPrefix(name, dir+"/") {
				return dir
			}
		}
	}
	if img.usrMerge {
		return "usr/lib/modules/" + version
	}
	return "lib/modules/" + version
}

// modules lists the modules of a kernel version in the image: name to path
// relative to dir.
func (img *image) modules(dir string) map[string]string {
	out := map[string]string{}
	for name, m := range img.members {
		if m.mode&cpio.TypeMask == cpio.TypeDir || !kmod.IsModule(name) {
			continue
		}
		if rel, ok := strings.CutPrefix(name, dir+"/"); ok {
			out[kmod.Name(rel)] = rel
		}
	}
	return out
}

// withDirs adds the folders above members that the image does not have. None
// that it has: a folder in the place of a link would replace the link.
func (img *image) withDirs(members []cpio.Member) []cpio.Member {
	made := map[string]bool{}
	out := members
	for _, m := range members {
		for dir := path.Dir(m.Name); dir != "."; dir = path.Dir(dir) {
			if _, ok := img.members[dir]; ok || made[dir] {
				continue
			}
			made[dir] = true
			out = append(out, cpio.Dir(dir))
		}
	}
	return out
}

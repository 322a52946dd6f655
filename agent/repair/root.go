package repair

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
)

// candidate is a file system that holds the root of a system, mounted.
type candidate struct {
	mount *mount
	os    guest.OS
}

func (c candidate) String() string {
	name := sourceName(c.mount.fs)
	if c.os.Name != "" {
		name += " (" + c.os.Name + ")"
	}
	return name
}

// findRoot mounts what may be a root and leaves the one mounted that is.
func (r *run) findRoot(given *guest.Facts) (*mount, error) {
	var found []candidate
	var failed []error
	for i := range given.Filesystems {
		f := &given.Filesystems[i]
		if !r.mayBeRoot(given, f) {
			continue
		}
		c, err := r.session.tryRoot(f)
		if err != nil {
			failed = append(failed, err)
			r.warn("%v", err)
		}
		if c != nil {
			found = append(found, *c)
		}
	}
	switch len(found) {
	case 1:
		return found[0].mount, nil
	case 0:
		return nil, r.noRoot(given, failed)
	}
	var names []string
	for _, c := range found {
		names = append(names, c.String())
	}
	return nil, api.Errorf(api.CodeManyRoots, "find guest", r.plan.Name, "%d systems were found: %s", len(found), strings.Join(names, ", "))
}

// mayBeRoot leaves out what cannot hold a root or is not asked for. Of a btrfs
// on several devices only the first is mounted: it brings the others.
func (r *run) mayBeRoot(given *guest.Facts, f *guest.Filesystem) bool {
	if mountable(f.Type) == "" || f.Type == "vfat" || strings.HasPrefix(f.Note, "snapshot") {
		return false
	}
	if f.Type == "btrfs" {
		if first, ok := given.Resolve("UUID=" + f.UUID); ok && first != f {
			return false
		}
	}
	if r.plan.Fix.Root == "" {
		return true
	}
	for _, spec := range []string{r.plan.Fix.Root, "UUID=" + r.plan.Fix.Root, "/dev/" + r.plan.Fix.Root} {
		if chosen, ok := given.Resolve(spec); ok {
			return chosen == f
		}
	}
	return false
}

// noRoot says why there is none: encrypted, damaged, or not known.
func (r *run) noRoot(given *guest.Facts, failed []error) error {
	const action = "find guest"
	var locked, seen []string
	for i := range given.Filesystems {
		f := &given.Filesystems[i]
		seen = append(seen, sourceName(f)+" "+f.Type)
		if f.Type == "BitLocker" || f.LUKS != nil && !f.LUKS.Opened {
			locked = append(locked, volumeName(f)+r.keyState(f))
		}
	}
	damaged := slices.ContainsFunc(failed, func(err error) bool {
		return errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EBADMSG) || errors.Is(err, errDamaged)
	})
	switch {
	case r.plan.Fix.Root != "":
		return api.Errorf(api.CodeNoRoot, action, r.plan.Fix.Root, "no system was found there; the disks hold: %s", list(seen))
	case len(locked) > 0:
		return api.Errorf(api.CodeEncrypted, action, r.plan.Name, "no readable system was found, and encrypted: %s", strings.Join(locked, ", "))
	case damaged:
		return api.NewError(api.CodeGuestDamaged, action, r.plan.Name, errors.Join(failed...))
	}
	e := api.Errorf(api.CodeNoRoot, action, r.plan.Name, "no system was found; the disks hold: %s", list(seen))
	e.Detail = strings.Join(r.report.Warnings, "\n")
	return e
}

// keyState says why an encrypted volume is closed.
func (r *run) keyState(f *guest.Filesystem) string {
	switch {
	case f.LUKS == nil:
		return ""
	case len(r.cfg.Keys) == 0:
		return ": no key was given"
	}
	return ": no key that was given opens it"
}

func list(words []string) string {
	if len(words) == 0 {
		return "nothing that is known"
	}
	return strings.Join(words, ", ")
}

// tryRoot mounts a file system and keeps it mounted if a system's root is in it.
func (s *session) tryRoot(f *guest.Filesystem) (*candidate, error) {
	m, err := s.mountNew(f)
	if err != nil {
		return nil, err
	}
	os, err := identify(m.at)
	if err == nil && os != nil {
		return &candidate{m, *os}, nil
	}
	if err == nil && f.Type == "btrfs" {
		return s.tryVolumes(f, m)
	}
	return nil, errors.Join(err, s.unmount(m))
}

// errOSTree tells of a root that is a store of several: what is in /etc lies in
// each of them.
var errOSTree = errors.New("an OSTree system, whose deployments are not repaired: its initramfs is made for any machine and boots on virtio as it is")

// identify tells the system whose root is mounted at a folder, nil for none.
func identify(at string) (*guest.OS, error) {
	root, err := mounted.Open(at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // opens nothing
	if _, err := root.ReadDir("."); err != nil {
		return nil, fmt.Errorf("read root folder: %w", err)
	}
	if !inspect.IsRoot(root) {
		if inspect.IsOSTree(root) {
			return nil, errOSTree
		}
		return nil, nil
	}
	os := inspect.Identify(root)
	return &os, nil
}

// rootVolumes are the subvolumes that installers put a root in: Ubuntu and
// openSUSE @, Debian @rootfs, Fedora root.
func rootVolumes() []string { return []string{"@", "@rootfs", "root"} }

// tryVolumes looks for the root in a btrfs whose default subvolume, mounted as
// m, is none: in the subvolumes of the top level that are usual, or that name
// themselves as the root in their own fstab. A snapshot does the latter too, for
// the volume it was made of, so it is never taken for a root.
func (s *session) tryVolumes(f *guest.Filesystem, m *mount) (*candidate, error) {
	if err := s.unmount(m); err != nil {
		return nil, err
	}
	top, err := s.mountNew(f, "subvolid=5") // BTRFS_FS_TREE_OBJECTID, the top level
	if err != nil {
		return nil, err
	}
	volume, err := rootVolume(top.at)
	if e := s.unmount(top); err == nil {
		err = e
	}
	if err != nil || volume == "" {
		return nil, err
	}
	if m, err = s.mountNew(f, "subvol="+volume); err != nil {
		return nil, err
	}
	os, err := identify(m.at)
	if err != nil || os == nil {
		return nil, errors.Join(err, s.unmount(m))
	}
	return &candidate{m, *os}, nil
}

func rootVolume(at string) (string, error) {
	tree, err := mounted.Open(at)
	if err != nil {
		return "", err
	}
	defer func() { _ = tree.Close() }() // opens nothing
	entries, err := tree.ReadDir(".")
	if err != nil {
		return "", err
	}
	usual := ""
	for _, e := range entries {
		name := e.Name()
		// A comma would end the mount option.
		if !e.IsDir() || strings.ContainsAny(name, ",\\") {
			continue
		}
		data, err := inspect.ReadFile(tree, path.Join(name, "etc/fstab"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, line := range inspect.Fstab(data) {
			if own, ok := line.Option("subvol"); ok && line.Point == "/" && strings.Trim(own, "/") == name {
				return name, nil
			}
		}
		if slices.Contains(rootVolumes(), name) && (usual == "" || name == rootVolumes()[0]) {
			usual = name
		}
	}
	return usual, nil
}

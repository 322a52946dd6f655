package mounted

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"golang.org/x/sys/unix"

	"hyper2kvm/fixes/guest"
)

// maxXattr is the most that a list or a value may hold (XATTR_LIST_MAX and
// XATTR_SIZE_MAX of linux/limits.h).
const maxXattr = 64 << 10

// exfatMagic is EXFAT_SUPER_MAGIC of linux/magic.h.
const exfatMagic = 0x2011bab0

// Attr returns the attributes of what name stands for.
func (r *Root) Attr(name string) (guest.Attr, error) {
	st, err := r.stat("attr", name, 0)
	if err != nil {
		return guest.Attr{}, err
	}
	attr := guest.Attr{Mode: goMode(st.Mode), UID: int(st.Uid), GID: int(st.Gid)}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return attr, nil // reading more would open it
	}
	fd, _, err := r.openFile("attr", name, unix.O_RDONLY)
	if err != nil {
		return guest.Attr{}, err
	}
	defer closeFD(fd)
	if attr.Xattrs, err = xattrs(fd); err != nil {
		return guest.Attr{}, &fs.PathError{Op: "attr", Path: name, Err: err}
	}
	return attr, nil
}

func xattrNames(fd int) ([]string, error) {
	buf := make([]byte, maxXattr)
	n, err := unix.Flistxattr(fd, buf)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var out []string
	for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if len(name) > 0 {
			out = append(out, string(name))
		}
	}
	return out, nil
}

func xattrs(fd int) (map[string][]byte, error) {
	names, err := xattrNames(fd)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	out := map[string][]byte{}
	buf := make([]byte, maxXattr)
	for _, name := range names {
		n, err := unix.Fgetxattr(fd, name, buf)
		if err == unix.ENODATA || errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		out[name] = bytes.Clone(buf[:n])
	}
	return out, nil
}

// setAttr gives an open file or folder its attributes. The order matters: a
// change of owner clears set-uid bits and capabilities, an ACL changes the mode.
func setAttr(fd int, attr guest.Attr) error {
	if plain, err := isPlain(fd); err != nil || plain {
		return err
	}
	if err := unix.Fchown(fd, attr.UID, attr.GID); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", attr.UID, attr.GID, err)
	}
	if err := setXattrs(fd, attr.Xattrs); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, unixMode(attr.Mode)); err != nil {
		return fmt.Errorf("set mode %v: %w", attr.Mode, err)
	}
	return nil
}

// isPlain reports whether the file lies on a file system that has neither
// owners nor modes nor extended attributes of its own, such as an ESP.
func isPlain(fd int) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, fmt.Errorf("ask for type of file system: %w", err)
	}
	return st.Type == unix.MSDOS_SUPER_MAGIC || st.Type == exfatMagic, nil
}

// setXattrs sets what want holds and removes all else, such as an ACL that the
// folder passed on.
func setXattrs(fd int, want map[string][]byte) error {
	have, err := xattrNames(fd)
	if err != nil {
		return err
	}
	for _, name := range have {
		if _, keep := want[name]; keep {
			continue
		}
		if err := unix.Fremovexattr(fd, name); err != nil && err != unix.ENODATA && !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("remove extended attribute %s: %w", name, err)
		}
	}
	for name, value := range want {
		err := unix.Fsetxattr(fd, name, value, 0)
		if name == labelName && errors.Is(err, errors.ErrUnsupported) {
			continue // a file system without labels needs none
		}
		if err != nil {
			return fmt.Errorf("set extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// labelName is the extended attribute that SELinux keeps labels in.
const labelName = "security.selinux"

// Label returns the SELinux label of name itself, nil where it has none.
func (r *Root) Label(name string) ([]byte, error) {
	var out []byte
	err := r.atItself("label", name, func(full string) error {
		buf := make([]byte, maxXattr)
		n, err := unix.Lgetxattr(full, labelName, buf)
		if err == unix.ENODATA || errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		if err == nil {
			out = bytes.Clone(buf[:n])
		}
		return err
	})
	return out, err
}

// SetLabel sets the SELinux label of name itself. A file system that has none
// stays without.
func (r *Root) SetLabel(name string, label []byte) error {
	return r.atItself("label", name, func(full string) error {
		if err := unix.Lsetxattr(full, labelName, label, 0); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		return nil
	})
}

// atItself calls do with a name of name itself, which is a link or not, by way
// of the descriptor of its folder: these calls take none.
func (r *Root) atItself(op, name string, do func(full string) error) error {
	if name == "." {
		return do("/proc/self/fd/" + strconv.Itoa(r.fd) + "/.")
	}
	folder, base, err := r.place(op, name, false)
	if err != nil {
		return err
	}
	defer closeFD(folder)
	if err := do("/proc/self/fd/" + strconv.Itoa(folder) + "/" + base); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

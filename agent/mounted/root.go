// Package mounted is a guest whose file systems are mounted on this machine: a
// guest.FS and a guest.Runner on one folder of a tree that nobody trusts.
//
// Every name is resolved by the kernel with openat2 and RESOLVE_IN_ROOT
// (openat2(2)): whatever symbolic links the guest holds, absolute ones too,
// lead to files of the guest. Nothing but regular files and folders is ever
// opened, so that a pipe or a device in place of a configuration file neither
// hangs nor acts.
package mounted

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/fixes/guest"
)

// inRoot is how every name is resolved.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// retries bounds how often openat2 is asked again when a rename elsewhere made
// it unsure that the walk stayed inside (EAGAIN, openat2(2)).
const retries = 64

var errSpecial = fmt.Errorf("neither a regular file nor a directory: %w", fs.ErrInvalid)

// Root is a mounted guest tree. Its methods may be called from several
// goroutines at once, until Close.
type Root struct {
	path string
	fd   int
}

var (
	_ guest.FS       = (*Root)(nil)
	_ guest.Appender = (*Root)(nil)
	_ guest.Labels   = (*Root)(nil)
)

// Open takes the tree below the folder dir. dir itself is trusted.
func Open(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open guest root", Path: dir, Err: err}
	}
	return &Root{path: dir, fd: fd}, nil
}

// Close lets the tree go, so that it can be unmounted.
func (r *Root) Close() error {
	if err := unix.Close(r.fd); err != nil {
		return &fs.PathError{Op: "close guest root", Path: r.path, Err: err}
	}
	return nil
}

// closeFD closes a descriptor that nothing was written through.
func closeFD(fd int) { _ = unix.Close(fd) }

// Path is the folder the tree is mounted on.
func (r *Root) Path() string { return r.path }

// valid is fs.ValidPath without its demand for UTF-8: names of a guest are bytes.
func valid(name string) bool {
	if name == "." {
		return true
	}
	for elem := range strings.SplitSeq(name, "/") {
		if elem == "" || elem == "." || elem == ".." || strings.IndexByte(elem, 0) >= 0 {
			return false
		}
	}
	return true
}

func pathError(op, name string, err error) error {
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		err = inner.Err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// openat opens name below the root; resolve is added to inRoot.
func (r *Root) openat(op, name string, flags int, resolve uint64) (int, error) {
	if !valid(name) {
		return -1, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	fd, err := openat2(r.fd, name, flags, resolve)
	if errors.Is(err, unix.ENOTDIR) {
		// To who asks for a file, one below a file is as missing as any other.
		err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	if err != nil {
		return -1, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return fd, nil
}

func openat2(dir int, name string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: inRoot | resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, name, &how)
		if err == nil || try == retries || err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}

// stat describes name, following links unless nofollow is unix.O_NOFOLLOW.
func (r *Root) stat(op, name string, nofollow int) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := r.openat(op, name, unix.O_PATH|nofollow, 0)
	if err != nil {
		return st, err
	}
	defer closeFD(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return st, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return st, nil
}

// openFile opens a regular file or folder for real. What it is is looked at
// first, through a descriptor that opens nothing; that the second open gave the
// same file is checked after.
func (r *Root) openFile(op, name string, flags int) (int, unix.Stat_t, error) {
	before, err := r.stat(op, name, 0)
	if err != nil {
		return -1, before, err
	}
	if kind := before.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return -1, before, &fs.PathError{Op: op, Path: name, Err: errSpecial}
	}
	fd, err := r.openat(op, name, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, before, err
	}
	var after unix.Stat_t
	err = unix.Fstat(fd, &after)
	if err == nil && (after.Ino != before.Ino || after.Dev != before.Dev || after.Mode&unix.S_IFMT != before.Mode&unix.S_IFMT) {
		err = errSpecial
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		closeFD(fd)
		return -1, after, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return fd, after, nil
}

// Stat describes what name stands for.
func (r *Root) Stat(name string) (fs.FileInfo, error) {
	st, err := r.stat("stat", name, 0)
	if err != nil {
		return nil, err
	}
	return newInfo(name, &st), nil
}

// Lstat describes name itself.
func (r *Root) Lstat(name string) (fs.FileInfo, error) {
	st, err := r.stat("lstat", name, unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	return newInfo(name, &st), nil
}

// ReadLink returns what the link name holds.
func (r *Root) ReadLink(name string) (string, error) {
	fd, err := r.openat("readlink", name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer closeFD(fd)
	buf := make([]byte, unix.PathMax)
	// An empty name reads the link that the descriptor itself stands for
	// (readlinkat(2), Linux 2.6.39); what is no link gives ENOENT then.
	n, err := unix.Readlinkat(fd, "", buf)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("not a symbolic link: %w", fs.ErrInvalid)
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// Space is what the file system that name lies on has left for root: bytes, and
// inodes, -1 where it has no fixed number of them.
func (r *Root) Space(name string) (bytes, inodes int64, err error) {
	fd, err := r.openat("statfs", name, unix.O_PATH, 0)
	if err != nil {
		return 0, 0, err
	}
	defer closeFD(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: name, Err: err}
	}
	inodes = int64(st.Ffree)
	if st.Files == 0 { // btrfs, vfat
		inodes = -1
	}
	return int64(st.Bfree) * st.Frsize, inodes, nil
}

package mounted

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"hyper2kvm/fixes/guest"
)

// tempName is the name of a file or link until it is complete.
func tempName() string { return ".h2k-" + rand.Text() }

// place opens the folder that name lies in, links followed (that of the last
// element if follow is set), and returns it with the last element. The walk
// gave a name without a link, and that is how the kernel opens it: a link that
// appears meanwhile is refused.
func (r *Root) place(op, name string, follow bool) (folder int, base string, err error) {
	resolve := guest.ResolveParent
	if follow {
		resolve = guest.Resolve
	}
	real, err := resolve(r, name)
	if err != nil {
		return -1, "", pathError(op, name, err)
	}
	if real == "." {
		return -1, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	folder, err = r.openat(op, path.Dir(real), unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, "", pathError(op, name, err)
	}
	return folder, path.Base(real), nil
}

// Write makes or replaces the regular file that name stands for: the new file
// is written beside it, synced, given attr, and renamed.
func (r *Root) Write(name string, content io.Reader, attr guest.Attr) error {
	folder, base, err := r.place("write", name, true)
	if err != nil {
		return err
	}
	defer closeFD(folder)
	if err := checkRegular(folder, base); err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	temp := tempName()
	err = writeTemp(folder, temp, content, attr)
	if err == nil {
		err = unix.Renameat(folder, temp, folder, base)
	}
	if errors.Is(err, unix.EPERM) {
		err = replaceFixed(folder, temp, base)
	}
	if err != nil {
		_ = unix.Unlinkat(folder, temp, 0) // it may not be there
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return syncFolder("write", name, folder)
}

// checkRegular refuses to put a file in the place of anything but a file.
func checkRegular(folder int, base string) error {
	var st unix.Stat_t
	err := unix.Fstatat(folder, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errSpecial
	}
	return nil
}

func writeTemp(folder int, temp string, content io.Reader, attr guest.Attr) error {
	fd, err := unix.Openat(folder, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = io.Copy(f, content)
	if err == nil {
		err = setAttr(fd, attr)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(op, name string, folder int) error {
	if err := unix.Fsync(folder); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("sync folder: %w", err)}
	}
	return nil
}

// Mkdir makes one folder.
func (r *Root) Mkdir(name string, attr guest.Attr) error {
	folder, base, err := r.place("mkdir", name, false)
	if err != nil {
		return err
	}
	defer closeFD(folder)
	if err := unix.Mkdirat(folder, base, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	if err := setDirAttr(folder, base, attr); err != nil {
		_ = unix.Unlinkat(folder, base, unix.AT_REMOVEDIR)
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return syncFolder("mkdir", name, folder)
}

func setDirAttr(folder int, base string, attr guest.Attr) error {
	fd, err := unix.Openat(folder, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if err := setAttr(fd, attr); err != nil {
		return err
	}
	return unix.Fsync(fd)
}

// Symlink makes name a link to target, in place of a link or file.
func (r *Root) Symlink(target, name string) error {
	folder, base, err := r.place("symlink", name, false)
	if err != nil {
		return err
	}
	defer closeFD(folder)
	temp := tempName()
	if err := unix.Symlinkat(target, folder, temp); err != nil {
		return &fs.PathError{Op: "symlink", Path: name, Err: err}
	}
	if err := unix.Renameat(folder, temp, folder, base); err != nil {
		_ = unix.Unlinkat(folder, temp, 0)
		return &fs.PathError{Op: "symlink", Path: name, Err: err}
	}
	return syncFolder("symlink", name, folder)
}

// Remove removes a file, link or empty folder.
func (r *Root) Remove(name string) error {
	folder, base, err := r.place("remove", name, false)
	if err != nil {
		return err
	}
	defer closeFD(folder)
	err = unix.Unlinkat(folder, base, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		if e := unix.Unlinkat(folder, base, unix.AT_REMOVEDIR); e != unix.ENOTDIR {
			err = e
		}
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return syncFolder("remove", name, folder)
}

// Append adds content at the end of the regular file that name stands for. When
// that fails midway the file is cut to its old length.
func (r *Root) Append(name string, content io.Reader) error {
	fd, st, err := r.openFile("append", name, unix.O_WRONLY|unix.O_APPEND)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		err = errors.Join(err, f.Truncate(st.Size))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return &fs.PathError{Op: "append", Path: name, Err: err}
	}
	return nil
}

// Truncate cuts the regular file that name stands for to size bytes.
func (r *Root) Truncate(name string, size int64) error {
	fd, _, err := r.openFile("truncate", name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return &fs.PathError{Op: "truncate", Path: name, Err: err}
	}
	return nil
}

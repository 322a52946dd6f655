package mend

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hyper2kvm/image/hostfile"
)

// openAlone opens an image for writing that nobody else uses, as far as that can
// be known: QEMU and its tools hold locks on the bytes of an image, a loop
// device or a mount holds the file, h2k locks it as a whole. The locks go with
// the file.
func openAlone(path string) (*os.File, error) {
	flag := os.O_RDWR | unix.O_NONBLOCK | unix.O_CLOEXEC
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		flag |= unix.O_EXCL // refused where it is mounted, or part of a volume
	default:
		return nil, &fs.PathError{Op: "open", Path: path, Err: hostfile.ErrNotFile}
	}
	f, err := os.OpenFile(path, flag, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %w", path, ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func lock(f *os.File) error {
	fd := int(f.Fd())
	// QEMU: docs/system/images, "Disk image file locking"; it uses locks of the
	// open file description on bytes from 100 on (block/file-posix.c).
	all := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	for _, err := range []error{unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &all)} {
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return ErrBusy
		case err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENOLCK):
			return fmt.Errorf("lock: %w", err)
		}
	}
	return notLooped(f)
}

// notLooped refuses a file that is behind a loop device.
func notLooped(f *os.File) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, name := range loops {
		backing, err := os.ReadFile(name)
		if err != nil {
			continue // the device went away
		}
		other, err := os.Stat(string(backing[:max(0, len(backing)-1)]))
		if err == nil && os.SameFile(mine, other) {
			return fmt.Errorf("%s: %w", filepath.Base(filepath.Dir(filepath.Dir(name))), ErrBusy)
		}
	}
	return nil
}

package mounted

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// fixedFlags are the flags of chattr(1) that forbid to replace a file, root too:
// immutable, and append only. statx(2) reports them by the same bits.
const fixedFlags = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND

// replaceFixed is the rename of temp to base for a file that its owner has made
// immutable, as /etc/resolv.conf often is: the flag goes for the time of the
// rename, and the new file has it too.
func replaceFixed(folder int, temp, base string) error {
	flags, err := changeFlags(folder, base, func(old int) int { return old &^ fixedFlags })
	if err != nil {
		return err
	}
	if flags&fixedFlags == 0 {
		return unix.EPERM
	}
	err = unix.Renameat(folder, temp, folder, base)
	_, again := changeFlags(folder, base, func(now int) int { return now | flags&fixedFlags })
	return errors.Join(err, again)
}

// changeFlags changes the flags of a regular file and returns the old ones.
func changeFlags(folder int, base string, change func(int) int) (old int, err error) {
	fd, err := unix.Openat(folder, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer closeFD(fd)
	value, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, errors.ErrUnsupported) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read flags: %w", err)
	}
	if now := change(int(value)); now != int(value) {
		if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, now); err != nil {
			return int(value), fmt.Errorf("set flags: %w", err)
		}
	}
	return int(value), nil
}

package repair

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fitrim is _IOWR('X', 121, struct fstrim_range) of linux/fs.h.
func fitrim(f *os.File, r *fitrimRange) error {
	const request = 3<<30 | unsafe.Sizeof(*r)<<16 | 'X'<<8 | 121
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

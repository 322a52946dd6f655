package mounted

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"hyper2kvm/fixes/guest"
)

// Mount mounts a file system on a folder of the tree, links followed inside it,
// and returns the folder's path on this machine, without a link in it.
func (r *Root) Mount(source, name, kind string, flags uintptr, data string) (string, error) {
	real, err := guest.Resolve(r, name)
	if err != nil {
		return "", pathError("mount", name, err)
	}
	fd, err := r.openat("mount", real, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return "", err
	}
	defer closeFD(fd)
	if err := unix.Mount(source, "/proc/self/fd/"+strconv.Itoa(fd), kind, flags, data); err != nil {
		return "", &fs.PathError{Op: "mount", Path: name, Err: fmt.Errorf("%s (%s): %w", source, kind, err)}
	}
	return filepath.Join(r.path, filepath.FromSlash(real)), nil
}

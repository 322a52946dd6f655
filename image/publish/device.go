package publish

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// EdgeBytes is how much at the begin and the end of a block device tells what
// is on it: partition tables and the labels of file systems, RAID and volume
// managers lie there.
const EdgeBytes = 1 << 20

// isDevice reports whether final is a block device.
func isDevice(info fs.FileInfo) bool {
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
}

// openDevice opens a block device to write an output on it. The kernel refuses
// an exclusive open of one that is mounted, swapped to, or part of an array, a
// volume group or a mapping; so are its partitions.
func openDevice(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s is mounted or otherwise in use: %w", name, ErrBusy)
	}
	return f, err
}

// checkDevice refuses a device that is in use, that a source lies on, or, unless
// force is set, that is not empty.
func checkDevice(name string, force bool, sources []string) error {
	on, err := standsOn(name)
	if err != nil {
		return fmt.Errorf("look at device %s: %w", name, err)
	}
	for _, s := range sources {
		src, err := standsOn(s)
		if err != nil {
			continue // it is gone, or was never there
		}
		if slices.Contains(src, on[0]) || slices.Contains(on, src[0]) {
			return fmt.Errorf("%s is %s, or one lies on the other: %w", name, s, ErrIsSource)
		}
	}
	f, err := openDevice(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if force {
		return nil
	}
	empty, err := edgesEmpty(f)
	if err != nil {
		return fmt.Errorf("look at device %s: %w", name, err)
	}
	if !empty {
		return fmt.Errorf("%s is a device that is not empty: %w", name, ErrExists)
	}
	return nil
}

// edgesEmpty reports whether both ends of a device are all zeroes.
func edgesEmpty(f *os.File) (bool, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	edge := make([]byte, min(size, EdgeBytes))
	for _, off := range []int64{0, size - int64(len(edge))} {
		if _, err := f.ReadAt(edge, off); err != nil {
			return false, err
		}
		if len(bytes.Trim(edge, "\x00")) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// maxStack bounds the walk over devices that lie on each other.
const maxStack = 1000

// standsOn names a file or block device, and behind it all that it lies on: the
// whole disk of a partition, what a mapping or an array is made of, the file
// behind a loop device.
func standsOn(name string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return []string{fmt.Sprintf("file %d %d", st.Dev, st.Ino)}, nil
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return nil, err
	}
	var found []string
	for todo := []string{dir}; len(todo) > 0 && len(found) < maxStack; {
		dir, todo = todo[0], todo[1:]
		if slices.Contains(found, dir) {
			continue
		}
		found = append(found, dir)
		todo = append(todo, below(dir)...)
		back, err := os.ReadFile(filepath.Join(dir, "loop", "backing_file"))
		if err != nil {
			continue
		}
		// A backing file that was removed has no name to find it by.
		if more, err := standsOn(strings.TrimSuffix(string(back), "\n")); err == nil {
			found = append(found, more...)
		}
	}
	return found, nil
}

// below are the devices right under one, as sysfs names them.
func below(dir string) []string {
	var out []string
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		out = append(out, filepath.Dir(dir))
	}
	slaves, _ := filepath.Glob(filepath.Join(dir, "slaves", "*")) // the pattern is well formed
	for _, n := range slaves {
		if n, err := filepath.EvalSymlinks(n); err == nil {
			out = append(out, n)
		}
	}
	return out
}

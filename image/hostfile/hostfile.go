// Package hostfile opens files and block devices of the host for the format
// parsers, and gives them what only the host knows: where a file has holes.
//
// It is the one place where a name becomes an open disk image; whether a name
// may be opened at all is decided by the caller.
package hostfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
)

// Sentinels to branch on.
var (
	// ErrDirectory says that a directory was named where an image is needed.
	ErrDirectory = errors.New("is a directory")
	// ErrNotFile says that the name is neither a regular file nor a block device.
	ErrNotFile = errors.New("is neither a regular file nor a block device")
)

// File is an opened host file that tells its holes. Its methods may be called
// from several goroutines at once.
type File struct {
	os   *os.File
	size int64
	// sparse is false where the system does not tell holes.
	sparse bool
}

// Open opens name for reading. Pipes, sockets and terminals are refused
// without being opened, since opening one can block for ever.
func Open(name string) (*File, error) {
	return open(name, os.O_RDONLY)
}

// OpenWrite opens name, which must exist, for reading and writing.
func OpenWrite(name string) (*File, error) {
	return open(name, os.O_RDWR)
}

func open(name string, flag int) (*File, error) {
	f, err := os.OpenFile(name, flag|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err // a PathError: says the action and the name
	}
	h, err := New(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return h, nil
}

// New takes over an open file: Close closes it.
func New(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return nil, &fs.PathError{Op: "open", Path: f.Name(), Err: ErrDirectory}
	case mode.IsRegular():
		return &File{os: f, size: info.Size(), sparse: true}, nil
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		// The inode of a block device says size 0; its end is found by seeking.
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, fmt.Errorf("size of block device %s: %w", f.Name(), err)
		}
		return &File{os: f, size: size}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: f.Name(), Err: ErrNotFile}
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.os.ReadAt(p, off) }

// WriteAt implements io.WriterAt for a file from OpenWrite.
func (f *File) WriteAt(p []byte, off int64) (int, error) { return f.os.WriteAt(p, off) }

// Size is the size in bytes at the time of opening.
func (f *File) Size() int64 { return f.size }

// SectorSize is the logical sector size of a block device in bytes; ok is false
// for a file, which has none.
func (f *File) SectorSize() (size int64, ok bool) {
	n, err := unix.IoctlGetInt(int(f.os.Fd()), unix.BLKSSZGET)
	return int64(n), err == nil
}

// Name is the name the file was opened with.
func (f *File) Name() string { return f.os.Name() }

// OSFile gives the open file, for what needs a descriptor (copy_file_range,
// fsync, flock).
func (f *File) OSFile() *os.File { return f.os }

// Close closes the file.
func (f *File) Close() error { return f.os.Close() }

// Format gives the file as parsers take it.
func (f *File) Format() formats.File {
	return formats.File{ReaderAt: f, Size: f.size, Name: f.os.Name()}
}

// NextData finds the first run of data at or after off: it begins at data and
// ends before hole. Without any, both are the size of the file. Where the
// system cannot tell holes, all is data.
func (f *File) NextData(off int64) (data, hole int64, err error) {
	if off >= f.size {
		return f.size, f.size, nil
	}
	if !f.sparse {
		return off, f.size, nil
	}
	// Only the result of lseek is used, never the file's position, so that
	// concurrent calls do not disturb each other.
	data, err = unix.Seek(int(f.os.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return f.size, f.size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP):
		return off, f.size, nil
	case err != nil:
		return 0, 0, &fs.PathError{Op: "seek data in", Path: f.os.Name(), Err: err}
	}
	hole, err = unix.Seek(int(f.os.Fd()), data, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, &fs.PathError{Op: "seek hole in", Path: f.os.Name(), Err: err}
	}
	return min(data, f.size), min(hole, f.size), nil
}

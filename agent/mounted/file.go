package mounted

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxEntries bounds how much of one folder is held: no system folder comes near.
const maxEntries = 1 << 20

var errTooMany = errors.New("folder has too many entries")

// Open opens a regular file or folder for reading.
func (r *Root) Open(name string) (fs.File, error) {
	fd, st, err := r.openFile("open", name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	f := file{File: os.NewFile(uintptr(fd), name), info: newInfo(name, &st)}
	if f.info.IsDir() {
		return &dir{file: f, root: r, name: name}, nil
	}
	return f, nil
}

// file is an open regular file. Its FileInfo is ours, so that it agrees with
// what Stat gives.
type file struct {
	*os.File
	info fileInfo
}

func (f file) Stat() (fs.FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: f.info.name, Err: err}
	}
	return newInfo(f.info.name, &st), nil
}

// dir is an open folder. The entries that os.File gives look themselves up by
// name from this process's folder, so they are read and wrapped here.
type dir struct {
	file
	root    *Root
	name    string
	entries []fs.DirEntry
	read    bool
}

func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		entries, err := readDir(d.root, int(d.Fd()), d.name)
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.name, Err: err}
		}
		d.entries, d.read = entries, true
	}
	if n <= 0 || n > len(d.entries) {
		if n > 0 && len(d.entries) == 0 {
			return nil, io.EOF
		}
		n = len(d.entries)
	}
	out := d.entries[:n:n]
	d.entries = d.entries[n:]
	return out, nil
}

// ReadDir lists a folder, sorted by name.
func (r *Root) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	defer func() { _ = f.Close() }() // read only
	d, ok := f.(*dir)
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: unix.ENOTDIR}
	}
	return d.ReadDir(-1)
}

// entry is one name of a folder.
type entry struct {
	root *Root
	name string // of the folder and the entry
	kind fs.FileMode
}

func (e entry) Name() string               { return path.Base(e.name) }
func (e entry) IsDir() bool                { return e.kind.IsDir() }
func (e entry) Type() fs.FileMode          { return e.kind }
func (e entry) Info() (fs.FileInfo, error) { return e.root.Lstat(e.name) }
func (e entry) String() string             { return fs.FormatDirEntry(e) }

func readDir(root *Root, fd int, name string) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			slices.SortFunc(out, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
			return out, nil
		}
		if out, err = parseDirents(root, fd, name, buf[:n], out); err != nil {
			return nil, err
		}
	}
}

// parseDirents reads struct linux_dirent64 records (getdents64(2)): 8 bytes
// inode, 8 offset, 2 record length, 1 type, then the name.
func parseDirents(root *Root, fd int, folder string, buf []byte, out []fs.DirEntry) ([]fs.DirEntry, error) {
	const nameOffset = 19
	for len(buf) > nameOffset {
		size := int(binary.NativeEndian.Uint16(buf[16:]))
		if size <= nameOffset || size > len(buf) {
			return nil, unix.EIO
		}
		name, _, _ := bytes.Cut(buf[nameOffset:size], []byte{0})
		kind := buf[18]
		buf = buf[size:]
		if s := string(name); s == "." || s == ".." || s == "" {
			continue
		}
		if len(out) == maxEntries {
			return nil, errTooMany
		}
		mode, err := direntMode(fd, string(name), kind)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}
		out = append(out, entry{root: root, name: path.Join(folder, string(name)), kind: mode})
	}
	return out, nil
}

func direntMode(fd int, name string, kind byte) (fs.FileMode, error) {
	switch kind {
	case unix.DT_REG:
		return 0, nil
	case unix.DT_DIR:
		return fs.ModeDir, nil
	case unix.DT_LNK:
		return fs.ModeSymlink, nil
	}
	// A file system that does not tell (DT_UNKNOWN), or something special.
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, err
	}
	return goMode(st.Mode).Type(), nil
}

// fileInfo is what the kernel says of a file.
type fileInfo struct {
	name string
	mode fs.FileMode
	st   unix.Stat_t
}

func newInfo(name string, st *unix.Stat_t) fileInfo {
	return fileInfo{name: path.Base(name), mode: goMode(st.Mode), st: *st}
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.st.Size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return time.Unix(i.st.Mtim.Unix()) }
func (i fileInfo) IsDir() bool        { return i.mode.IsDir() }

// Sys gives the *unix.Stat_t.
func (i fileInfo) Sys() any { return &i.st }

// modeBits pairs the bits above the permissions (inode(7)) with Go's.
func modeBits() []struct {
	unix uint32
	mode fs.FileMode
} {
	return []struct {
		unix uint32
		mode fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}}
}

func goMode(mode uint32) fs.FileMode {
	out := fs.FileMode(mode & 0o777)
	for _, b := range modeBits() {
		if mode&b.unix != 0 {
			out |= b.mode
		}
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		out |= fs.ModeDir
	case unix.S_IFLNK:
		out |= fs.ModeSymlink
	case unix.S_IFIFO:
		out |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		out |= fs.ModeSocket
	case unix.S_IFBLK:
		out |= fs.ModeDevice
	case unix.S_IFCHR:
		out |= fs.ModeDevice | fs.ModeCharDevice
	}
	return out
}

// unixMode gives the permission bits alone.
func unixMode(mode fs.FileMode) uint32 {
	out := uint32(mode.Perm())
	for _, b := range modeBits() {
		if mode&b.mode != 0 {
			out |= b.unix
		}
	}
	return out
}

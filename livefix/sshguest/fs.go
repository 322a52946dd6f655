package sshguest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"syscall"

	"github.com/pkg/sftp"

	"hyper2kvm/fixes/guest"
)

// files is the guest's tree over SFTP. The guest itself resolves symbolic links:
// its root is the root. What SFTP has no word for goes through the shell.
type files struct {
	cache
	client  *sftp.Client
	shell   *shell
	base    string // the folder that is the tree's root, "" for the guest's own
	selinux bool   // labels are kept
	xattr   bool   // the guest has getfattr and setfattr
	fsync   bool
}

var (
	_ guest.FS       = (*files)(nil)
	_ guest.Appender = (*files)(nil)
)

// newFiles asks what the guest has for attributes.
func newFiles(client *sftp.Client, sh *shell) (*files, error) {
	f := &files{client: client, shell: sh}
	f.forget()
	_, f.fsync = client.HasExtension("fsync@openssh.com")
	if _, ok := client.HasExtension("posix-rename@openssh.com"); !ok {
		return nil, errors.New("the guest's SFTP server cannot replace a file in one step (posix-rename@openssh.com)")
	}
	out, _, err := sh.run(`grep -q ' selinuxfs ' /proc/mounts && echo selinux; command -v getfattr >/dev/null && command -v setfattr >/dev/null && echo xattr; true`)
	if err != nil {
		return nil, err
	}
	for w := range fieldsOf(out) {
		f.selinux = f.selinux || w == "selinux"
		f.xattr = f.xattr || w == "xattr"
	}
	return f, nil
}

// full is the path of a name in the guest.
func (f *files) full(name string) string { return path.Join("/", f.base, name) }

func check(op, name string) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return nil
}

// failed gives an SFTP error the form of io/fs. A server tells most failures by
// one code, so what it meant is found out where that helps.
func failedOp(op, name string, err error) error {
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		err = inner.Err
	}
	for _, end := range []error{errEnded, sftp.ErrSSHFxConnectionLost, sftp.ErrSSHFxNoConnection, io.ErrUnexpectedEOF} {
		if errors.Is(err, end) {
			return lost(op, "/"+name, errEnded)
		}
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Lstat describes name itself.
func (f *files) Lstat(name string) (fs.FileInfo, error) {
	if err := check("lstat", name); err != nil {
		return nil, err
	}
	real, err := f.place("lstat", name)
	if err != nil {
		return nil, err
	}
	info, err := f.lstat(real)
	if err != nil {
		return nil, failedOp("lstat", name, err)
	}
	return named{info, path.Base(name)}, nil
}

// lstat describes a name that has no link above its last element.
func (f *files) lstat(name string) (fs.FileInfo, error) {
	info, known := f.info(name)
	if known && info == nil {
		return nil, fs.ErrNotExist
	}
	if known {
		return info, nil
	}
	if dir := path.Dir(name); name != "." && f.list(dir) {
		list, err := f.listFolder(dir)
		if err == nil && len(list) > bigFolder {
			f.tooBig(dir)
		}
		if info, known := f.info(name); known {
			if info == nil {
				return nil, fs.ErrNotExist
			}
			return info, nil
		}
	}
	info, err := f.client.Lstat(f.full(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.put(name, nil)
		return nil, fs.ErrNotExist
	case err != nil:
		return nil, err
	}
	f.put(name, info)
	return info, nil
}

// place resolves the folders above name, the last element not. Names of this
// machine's cache have no links above their last element.
func (f *files) place(op, name string) (string, error) {
	real, err := guest.ResolveParent(walker{f}, name)
	if err != nil {
		return "", failedOp(op, name, err)
	}
	return real, nil
}

// walker is asked name by name while a name is resolved.
type walker struct{ f *files }

func (w walker) Lstat(name string) (fs.FileInfo, error) { return w.f.lstat(name) }
func (w walker) ReadLink(name string) (string, error)   { return w.f.readLink(name) }

// resolve follows all links of name.
func (f *files) resolve(op, name string) (string, error) {
	if err := check(op, name); err != nil {
		return "", err
	}
	real, err := guest.Resolve(walker{f}, name)
	if err != nil {
		return "", failedOp(op, name, err)
	}
	return real, nil
}

// Stat describes what name stands for.
func (f *files) Stat(name string) (fs.FileInfo, error) {
	real, err := f.resolve("stat", name)
	if err != nil {
		return nil, err
	}
	info, err := f.lstat(real)
	if err != nil {
		return nil, failedOp("stat", name, err)
	}
	return named{info, path.Base(name)}, nil
}

// ReadLink returns what the link name holds.
func (f *files) ReadLink(name string) (string, error) {
	if err := check("readlink", name); err != nil {
		return "", err
	}
	real, err := f.place("readlink", name)
	if err != nil {
		return "", err
	}
	info, err := f.lstat(real)
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		err = fmt.Errorf("not a symbolic link: %w", fs.ErrInvalid)
	}
	if err != nil {
		return "", failedOp("readlink", name, err)
	}
	to, err := f.readLink(real)
	if err != nil {
		return "", failedOp("readlink", name, err)
	}
	return to, nil
}

func (f *files) readLink(name string) (string, error) {
	if to, ok := f.link(name); ok {
		return to, nil
	}
	to, err := f.client.ReadLink(f.full(name))
	if err == nil {
		f.putLink(name, to)
	}
	return to, err
}

// ReadDir lists a folder, sorted by name.
func (f *files) ReadDir(name string) ([]fs.DirEntry, error) {
	real, err := f.resolve("readdir", name)
	if err != nil {
		return nil, err
	}
	info, err := f.lstat(real)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, failedOp("readdir", name, err)
	}
	list, err := f.listFolder(real)
	if err != nil {
		return nil, failedOp("readdir", name, err)
	}
	out := make([]fs.DirEntry, len(list))
	for i, info := range list {
		out[i] = fs.FileInfoToDirEntry(info)
	}
	return out, nil
}

func (f *files) listFolder(dir string) ([]fs.FileInfo, error) {
	if list, ok := f.folder(dir); ok {
		return list, nil
	}
	list, err := f.client.ReadDir(f.full(dir))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b fs.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	f.putFolder(dir, list)
	return list, nil
}

// named is a FileInfo under the name that was asked for.
type named struct {
	fs.FileInfo
	name string
}

func (n named) Name() string { return n.name }

// Open opens a regular file or folder for reading.
func (f *files) Open(name string) (fs.File, error) {
	real, err := f.resolve("open", name)
	if err != nil {
		return nil, err
	}
	info, err := f.lstat(real)
	switch {
	case err != nil:
		return nil, failedOp("open", name, err)
	case info.IsDir():
		return &dir{files: f, name: name, info: named{info, path.Base(name)}}, nil
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%w: %w", errSpecial, fs.ErrInvalid)}
	}
	h, err := f.client.Open(f.full(real))
	if err != nil {
		return nil, failedOp("open", name, err)
	}
	return &file{h: h, name: name, info: named{info, path.Base(name)}}, nil
}

// readAhead is how much is asked for at once; the client splits it into
// requests that are under way together.
const readAhead = 1 << 20

// file is an open regular file.
type file struct {
	h    *sftp.File
	name string
	info fs.FileInfo // as it was before it was opened: a round trip less
	buf  []byte
	off  int64 // behind buf
	end  bool
}

// Stat describes the file.
func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }

// Read reads ahead: as much as the file is long, up to readAhead.
func (f *file) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(f.buf) == 0 && !f.end {
		if err := f.fill(); err != nil {
			return 0, failedOp("read", f.name, err)
		}
	}
	if len(f.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.buf)
	f.buf = f.buf[n:]
	return n, nil
}

func (f *file) fill() error {
	// One byte more than there is tells the end; a file of /proc has no length.
	want := min(max(f.info.Size()-f.off+1, 4096), readAhead)
	buf := make([]byte, want)
	n, err := f.h.ReadAt(buf, f.off)
	f.buf, f.off = buf[:n], f.off+int64(n)
	if !errors.Is(err, io.EOF) {
		return err
	}
	f.end = true
	if f.off >= f.info.Size() {
		return nil
	}
	// Shorter than it was: is that so, or was something lost?
	info, err := f.h.Stat()
	if err == nil && info.Size() > f.off {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Close closes it, without waiting for the answer: nothing was written.
func (f *file) Close() error {
	go func() { _ = f.h.Close() }()
	return nil
}

// dir is an open folder.
type dir struct {
	files   *files
	name    string
	info    fs.FileInfo
	entries []fs.DirEntry
	read    bool
}

func (d *dir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *dir) Close() error               { return nil }
func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: syscall.EISDIR}
}

// ReadDir is that of fs.ReadDirFile.
func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		entries, err := d.files.ReadDir(d.name)
		if err != nil {
			return nil, err
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

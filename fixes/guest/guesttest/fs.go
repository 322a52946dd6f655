// Package guesttest is a guest in memory for the tests of fixes, and the
// conformance suite that every guest.FS passes.
//
// A tree is written as a txtar archive whose file names may carry attributes:
//
//	-- etc/fstab --
//	/dev/sda1 / ext4 defaults 0 1
//	-- etc/shadow mode=0640 gid=42 --
//	root:*:19000:0:99999:7:::
//	-- lib link=usr/lib --
//	-- var/log/ mode=0755 --
package guesttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"
	"time"

	"hyper2kvm/fixes/guest"
)

// FS is a guest.FS in memory. Its methods may be called from several
// goroutines at once. It implements guest.Appender too.
type FS struct {
	mu   sync.Mutex
	root *node
	// free is how many bytes of content may still be added; -1 is no limit.
	free int64
}

type node struct {
	attr   guest.Attr // Mode holds the type
	data   []byte
	target string
	kids   map[string]*node
}

var (
	_ guest.FS       = (*FS)(nil)
	_ guest.Appender = (*FS)(nil)
	_ guest.Labels   = (*FS)(nil)

	errNotEmpty = errors.New("directory not empty")
	errIsDir    = errors.New("is a directory")
	errSpecial  = fmt.Errorf("neither a regular file nor a directory: %w", fs.ErrInvalid)
	// ErrSpace is what writing more than Limit allowed gives.
	ErrSpace = errors.New("no space left on device")
)

// label is the extended attribute of SELinux's labels.
const label = "security.selinux"

// keptBits are the mode bits that a file keeps beside its type.
const keptBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// Empty makes a tree with only a root folder.
func Empty() *FS {
	return &FS{root: newDir(guest.Attr{Mode: 0o755}), free: -1}
}

func newDir(attr guest.Attr) *node {
	attr.Mode = attr.Mode&keptBits | fs.ModeDir
	return &node{attr: cloneAttr(attr), kids: map[string]*node{}}
}

func cloneAttr(a guest.Attr) guest.Attr {
	out := a
	out.Xattrs = nil
	for k, v := range a.Xattrs {
		if out.Xattrs == nil {
			out.Xattrs = map[string][]byte{}
		}
		out.Xattrs[k] = bytes.Clone(v)
	}
	return out
}

// Limit makes every write that would add more than free bytes in all give
// ErrSpace.
func (f *FS) Limit(free int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = free
}

// Special puts a device, socket or pipe at name, with missing folders.
func (f *FS) Special(name string, mode fs.FileMode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parents(name).kids[path.Base(name)] = &node{attr: guest.Attr{Mode: mode}}
}

// parents makes the folders above name.
func (f *FS) parents(name string) *node {
	at := f.root
	dir := path.Dir(name)
	if dir == "." {
		return at
	}
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		base := path.Base(dir[:i])
		if at.kids[base] == nil || at.kids[base].kids == nil {
			at.kids[base] = newDir(guest.Attr{Mode: 0o755})
		}
		at = at.kids[base]
	}
	return at
}

// view is the tree without its lock, as guest.Resolve sees it.
type view struct{ root *node }

func (v view) find(name string) *node {
	at := v.root
	if name == "." {
		return at
	}
	for elem, rest := "", name; rest != ""; {
		elem, rest = cut(rest)
		if at = at.kids[elem]; at == nil {
			return nil
		}
	}
	return at
}

func cut(name string) (first, rest string) {
	for i := range len(name) {
		if name[i] == '/' {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

func (v view) Lstat(name string) (fs.FileInfo, error) {
	n := v.find(name)
	if n == nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return n.info(name), nil
}

func (v view) ReadLink(name string) (string, error) {
	n := v.find(name)
	if n == nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrNotExist}
	}
	if n.attr.Mode&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return n.target, nil
}

// get returns the node that name stands for; it must exist.
func (f *FS) get(op, name string, follow bool) (*node, error) {
	v := view{f.root}
	resolve := guest.Resolve
	if !follow {
		resolve = guest.ResolveParent
	}
	real, err := resolve(v, name)
	if err != nil {
		return nil, asPathError(op, name, err)
	}
	n := v.find(real)
	if n == nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

// place returns the folder that name lies in and its last element, once links
// are followed; the last element's link only if follow is set.
func (f *FS) place(op, name string, follow bool) (*node, string, error) {
	v := view{f.root}
	resolve := guest.Resolve
	if !follow {
		resolve = guest.ResolveParent
	}
	real, err := resolve(v, name)
	if err != nil {
		return nil, "", asPathError(op, name, err)
	}
	dir := v.find(path.Dir(real))
	if real == "." || dir == nil || dir.kids == nil {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return dir, path.Base(real), nil
}

func asPathError(op, name string, err error) error {
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		err = inner.Err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Stat describes what name stands for, links followed.
func (f *FS) Stat(name string) (fs.FileInfo, error) { return f.stat("stat", name, true) }

// Lstat describes name itself.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { return f.stat("lstat", name, false) }

func (f *FS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get(op, name, follow)
	if err != nil {
		return nil, err
	}
	return n.info(name), nil
}

// ReadLink returns what the link name holds.
func (f *FS) ReadLink(name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("readlink", name, false)
	if err != nil {
		return "", err
	}
	if n.attr.Mode&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return n.target, nil
}

// Attr returns the attributes of what name stands for.
func (f *FS) Attr(name string) (guest.Attr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("attr", name, true)
	if err != nil {
		return guest.Attr{}, err
	}
	return cloneAttr(n.attr), nil
}

// Label returns the SELinux label of name itself.
func (f *FS) Label(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("label", name, false)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(n.attr.Xattrs[label]), nil
}

// SetLabel sets the SELinux label of name itself.
func (f *FS) SetLabel(name string, value []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("label", name, false)
	if err != nil {
		return err
	}
	n.attr = cloneAttr(n.attr)
	if n.attr.Xattrs == nil {
		n.attr.Xattrs = map[string][]byte{}
	}
	n.attr.Xattrs[label] = bytes.Clone(value)
	return nil
}

// ReadDir lists a folder, sorted by name.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if n.kids == nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	return n.entries(), nil
}

func (n *node) entries() []fs.DirEntry {
	var out []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(n.kids)) {
		out = append(out, fs.FileInfoToDirEntry(n.kids[name].info(name)))
	}
	return out
}

// Open opens a file or folder for reading.
func (f *FS) Open(name string) (fs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("open", name, true)
	if err != nil {
		return nil, err
	}
	switch {
	case n.kids != nil:
		return &openDir{info: n.info(name), rest: n.entries(), name: name}, nil
	case n.attr.Mode.IsRegular():
		return &openFile{Reader: bytes.NewReader(n.data), info: n.info(name)}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: errSpecial}
}

// Write makes or replaces a regular file.
func (f *FS) Write(name string, content io.Reader, attr guest.Attr) error {
	data, err := io.ReadAll(content) // before the lock: content may come from this tree
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, base, err := f.place("write", name, true)
	if err != nil {
		return err
	}
	if old := dir.kids[base]; old != nil && !old.attr.Mode.IsRegular() {
		reason := errSpecial
		if old.kids != nil {
			reason = errIsDir
		}
		return &fs.PathError{Op: "write", Path: name, Err: reason}
	}
	if err := f.take(int64(len(data))); err != nil { // the old bytes stay until the new are there
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	attr = cloneAttr(attr)
	attr.Mode &= keptBits
	dir.kids[base] = &node{attr: attr, data: data}
	return nil
}

func (f *FS) take(n int64) error {
	if f.free < 0 {
		return nil
	}
	if n > f.free {
		return ErrSpace
	}
	f.free -= n
	return nil
}

// Append adds bytes to a regular file in place.
func (f *FS) Append(name string, content io.Reader) error {
	data, err := io.ReadAll(content)
	if err != nil {
		return &fs.PathError{Op: "append", Path: name, Err: err}
	}
	return f.inPlace("append", name, func(n *node) error {
		if err := f.take(int64(len(data))); err != nil {
			return err
		}
		n.data = slices.Concat(n.data, data)
		return nil
	})
}

// Truncate cuts a regular file in place.
func (f *FS) Truncate(name string, size int64) error {
	return f.inPlace("truncate", name, func(n *node) error {
		if size < 0 || size > int64(len(n.data)) {
			return fs.ErrInvalid
		}
		n.data = n.data[:size:size]
		return nil
	})
}

func (f *FS) inPlace(op, name string, do func(*node) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get(op, name, true)
	if err != nil {
		return err
	}
	if !n.attr.Mode.IsRegular() {
		return &fs.PathError{Op: op, Path: name, Err: errSpecial}
	}
	if err := do(n); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// Mkdir makes one folder.
func (f *FS) Mkdir(name string, attr guest.Attr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, base, err := f.place("mkdir", name, false)
	if err != nil {
		return err
	}
	if dir.kids[base] != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	dir.kids[base] = newDir(attr)
	return nil
}

// Symlink makes name a symbolic link to target.
func (f *FS) Symlink(target, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, base, err := f.place("symlink", name, false)
	if err != nil {
		return err
	}
	if old := dir.kids[base]; old != nil && old.kids != nil {
		return &fs.PathError{Op: "symlink", Path: name, Err: errIsDir}
	}
	dir.kids[base] = &node{attr: guest.Attr{Mode: fs.ModeSymlink | 0o777}, target: target}
	return nil
}

// Remove removes a file, a link or an empty folder.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, base, err := f.place("remove", name, false)
	if err != nil {
		return err
	}
	old := dir.kids[base]
	switch {
	case old == nil:
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	case len(old.kids) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: errNotEmpty}
	}
	delete(dir.kids, base)
	return nil
}

// info is a snapshot: a write makes a new node, Append and Truncate new data.
type info struct {
	name string
	mode fs.FileMode
	size int64
}

func (n *node) info(name string) fs.FileInfo {
	size := int64(len(n.data))
	if n.attr.Mode&fs.ModeSymlink != 0 {
		size = int64(len(n.target))
	}
	return info{name: path.Base(name), mode: n.attr.Mode, size: size}
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

type openFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (o *openFile) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *openFile) Close() error               { return nil }

type openDir struct {
	info fs.FileInfo
	name string
	rest []fs.DirEntry
}

func (o *openDir) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *openDir) Close() error               { return nil }
func (o *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: o.name, Err: errIsDir}
}

func (o *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(o.rest) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(o.rest) {
		n = len(o.rest)
	}
	out := o.rest[:n]
	o.rest = o.rest[n:]
	return out, nil
}

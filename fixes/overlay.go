package fixes

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"hyper2kvm/fixes/guest"
)

// overlay is a tree over another one that keeps what is written in memory, so
// that a fix is planned with the changes of earlier fixes in sight. It is for
// one goroutine.
type overlay struct {
	base  guest.FS
	nodes map[string]*overNode // by resolved name; nodes are never changed in place
}

// overNode hides what the base has under its name. Nothing of the base shows
// below a node: a folder made here was not there, or empty.
type overNode struct {
	mode   fs.FileMode // type only; 0 for a regular file
	gone   bool
	attr   guest.Attr
	target string
	parts  []part
}

// part is a piece of a file's content: bytes, or the first size bytes of a file
// of the base.
type part struct {
	data []byte
	from string
	size int64
}

func newOverlay(base guest.FS) *overlay {
	return &overlay{base: base, nodes: map[string]*overNode{}}
}

// fork returns a copy that later writes to o do not change.
func (o *overlay) fork() *overlay {
	return &overlay{base: o.base, nodes: maps.Clone(o.nodes)}
}

var errIsDir = errors.New("is a directory")

func notExist(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// resolved is the overlay asked by names that hold no links.
type resolved struct{ *overlay }

func (o resolved) node(name string) (n *overNode, covered bool) {
	if n := o.nodes[name]; n != nil {
		return n, true
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if o.nodes[dir] != nil {
			return nil, true
		}
	}
	return nil, false
}

func (o resolved) Lstat(name string) (fs.FileInfo, error) {
	n, covered := o.node(name)
	if !covered {
		return o.base.Lstat(name)
	}
	if n == nil || n.gone {
		return nil, notExist("lstat", name)
	}
	return n.info(name), nil
}

func (o resolved) ReadLink(name string) (string, error) {
	n, covered := o.node(name)
	if !covered {
		return o.base.ReadLink(name)
	}
	if n == nil || n.gone {
		return "", notExist("readlink", name)
	}
	if n.mode&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return n.target, nil
}

// find resolves name and returns what the overlay has there; nil means the base.
func (o *overlay) find(op, name string) (string, *overNode, error) {
	real, err := guest.Resolve(resolved{o}, name)
	if err != nil {
		return "", nil, err
	}
	n, covered := resolved{o}.node(real)
	if covered && (n == nil || n.gone) {
		return "", nil, notExist(op, name)
	}
	return real, n, nil
}

func (o *overlay) Stat(name string) (fs.FileInfo, error) {
	real, n, err := o.find("stat", name)
	if err != nil {
		return nil, err
	}
	if n != nil {
		return n.info(name), nil
	}
	info, err := o.base.Stat(real)
	if err != nil {
		return nil, err
	}
	return renamed{info, path.Base(name)}, nil
}

// renamed is the info of a link's target under the link's name.
type renamed struct {
	fs.FileInfo
	name string
}

func (r renamed) Name() string { return r.name }

func (o *overlay) Lstat(name string) (fs.FileInfo, error) {
	real, err := guest.ResolveParent(resolved{o}, name)
	if err != nil {
		return nil, err
	}
	return resolved{o}.Lstat(real)
}

func (o *overlay) ReadLink(name string) (string, error) {
	real, err := guest.ResolveParent(resolved{o}, name)
	if err != nil {
		return "", err
	}
	return resolved{o}.ReadLink(real)
}

func (o *overlay) Attr(name string) (guest.Attr, error) {
	real, n, err := o.find("attr", name)
	if err != nil {
		return guest.Attr{}, err
	}
	if n != nil {
		return n.attr, nil
	}
	return o.base.Attr(real)
}

func (o *overlay) Open(name string) (fs.File, error) {
	real, n, err := o.find("open", name)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		f, err := o.base.Open(real)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil || !info.IsDir() {
			return f, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		return o.openDir(name, info)
	case n.mode.IsDir():
		return o.openDir(name, n.info(name))
	}
	return o.openParts(name, n)
}

func (o *overlay) openDir(name string, info fs.FileInfo) (fs.File, error) {
	entries, err := o.ReadDir(name)
	if err != nil {
		return nil, err
	}
	return &overDir{info: info, rest: entries}, nil
}

// openParts gives a file that can seek when it lies wholly in memory.
func (o *overlay) openParts(name string, n *overNode) (fs.File, error) {
	var whole []byte
	var readers []io.Reader
	var closers []io.Closer
	for _, p := range n.parts {
		if p.from == "" {
			whole = append(whole, p.data...)
			readers = append(readers, bytes.NewReader(p.data))
			continue
		}
		f, err := o.base.Open(p.from)
		if err != nil {
			return nil, errors.Join(err, closeAll(closers))
		}
		closers = append(closers, f)
		readers = append(readers, io.LimitReader(f, p.size))
	}
	if len(closers) == 0 {
		return &memFile{bytes.NewReader(whole), n.info(name)}, nil
	}
	return &overFile{io.MultiReader(readers...), n.info(name), closers}, nil
}

func closeAll(closers []io.Closer) error {
	var err error
	for _, c := range closers {
		err = errors.Join(err, c.Close())
	}
	return err
}

func (o *overlay) ReadDir(name string) ([]fs.DirEntry, error) {
	real, n, err := o.find("readdir", name)
	if err != nil {
		return nil, err
	}
	var out []fs.DirEntry
	if n == nil {
		base, err := o.base.ReadDir(real)
		if err != nil {
			return nil, err
		}
		out = slices.DeleteFunc(base, func(e fs.DirEntry) bool { return o.nodes[path.Join(real, e.Name())] != nil })
	} else if !n.mode.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	for kid, n := range o.nodes {
		if path.Dir(kid) == real && !n.gone {
			out = append(out, fs.FileInfoToDirEntry(n.info(kid)))
		}
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

// place resolves where name is to be written, and what is there now: nil for
// nothing.
func (o *overlay) place(op, name string, follow bool) (string, fs.FileInfo, error) {
	resolve := guest.ResolveParent
	if follow {
		resolve = guest.Resolve
	}
	real, err := resolve(resolved{o}, name)
	if err != nil {
		return "", nil, err
	}
	if real == "." {
		return "", nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	info, err := resolved{o}.Lstat(real)
	if errors.Is(err, fs.ErrNotExist) {
		return real, nil, nil
	}
	return real, info, err
}

func (o *overlay) Write(name string, content io.Reader, attr guest.Attr) error {
	data, err := io.ReadAll(content)
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	real, old, err := o.place("write", name, true)
	if err != nil {
		return err
	}
	if old != nil && !old.Mode().IsRegular() {
		return &fs.PathError{Op: "write", Path: name, Err: errors.New("not a regular file")}
	}
	attr.Mode &^= fs.ModeType
	o.nodes[real] = &overNode{attr: attr, parts: []part{{data: data, size: int64(len(data))}}}
	return nil
}

// Append adds to a file without reading what it has.
func (o *overlay) Append(name string, content io.Reader) error {
	data, err := io.ReadAll(content)
	if err != nil {
		return &fs.PathError{Op: "append", Path: name, Err: err}
	}
	return o.replaceParts("append", name, func(parts []part) ([]part, error) {
		return append(slices.Clone(parts), part{data: data, size: int64(len(data))}), nil
	})
}

// Truncate cuts a file without reading it.
func (o *overlay) Truncate(name string, size int64) error {
	return o.replaceParts("truncate", name, func(parts []part) ([]part, error) {
		var out []part
		for _, p := range parts {
			p.size = min(p.size, size)
			if p.from == "" {
				p.data = p.data[:p.size]
			}
			size -= p.size
			out = append(out, p)
		}
		if size != 0 {
			return nil, fs.ErrInvalid
		}
		return out, nil
	})
}

func (o *overlay) replaceParts(op, name string, change func([]part) ([]part, error)) error {
	real, n, err := o.find(op, name)
	if err != nil {
		return err
	}
	if n == nil {
		info, err := o.base.Lstat(real)
		if err != nil {
			return err
		}
		attr, err := o.base.Attr(real)
		if err != nil {
			return err
		}
		n = &overNode{mode: info.Mode().Type(), attr: attr, parts: []part{{from: real, size: info.Size()}}}
	}
	if !n.mode.IsRegular() {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	parts, err := change(n.parts)
	if err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	o.nodes[real] = &overNode{attr: n.attr, parts: parts}
	return nil
}

func (o *overlay) Mkdir(name string, attr guest.Attr) error {
	real, old, err := o.place("mkdir", name, false)
	if err != nil {
		return err
	}
	if old != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	if _, err := (resolved{o}).Lstat(path.Dir(real)); err != nil && path.Dir(real) != "." {
		return err
	}
	attr.Mode = attr.Mode&^fs.ModeType | fs.ModeDir
	o.nodes[real] = &overNode{mode: fs.ModeDir, attr: attr}
	return nil
}

func (o *overlay) Symlink(target, name string) error {
	real, old, err := o.place("symlink", name, false)
	if err != nil {
		return err
	}
	if old != nil && old.IsDir() {
		return &fs.PathError{Op: "symlink", Path: name, Err: errIsDir}
	}
	o.nodes[real] = &overNode{mode: fs.ModeSymlink, target: target, attr: guest.Attr{Mode: fs.ModeSymlink | 0o777}}
	return nil
}

func (o *overlay) Remove(name string) error {
	real, old, err := o.place("remove", name, false)
	if err != nil {
		return err
	}
	if old == nil {
		return notExist("remove", name)
	}
	if old.IsDir() {
		entries, err := o.ReadDir(real)
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			return &fs.PathError{Op: "remove", Path: name, Err: errors.New("directory not empty")}
		}
	}
	o.nodes[real] = &overNode{gone: true}
	return nil
}

type overInfo struct {
	name string
	mode fs.FileMode
	size int64
}

func (n *overNode) info(name string) fs.FileInfo {
	size := int64(len(n.target))
	for _, p := range n.parts {
		size += p.size
	}
	return overInfo{path.Base(name), n.attr.Mode&^fs.ModeType | n.mode, size}
}

func (i overInfo) Name() string       { return i.name }
func (i overInfo) Size() int64        { return i.size }
func (i overInfo) Mode() fs.FileMode  { return i.mode }
func (i overInfo) ModTime() time.Time { return time.Time{} }
func (i overInfo) IsDir() bool        { return i.mode.IsDir() }
func (i overInfo) Sys() any           { return nil }

type memFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f *memFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *memFile) Close() error               { return nil }

type overFile struct {
	io.Reader
	info    fs.FileInfo
	closers []io.Closer
}

func (f *overFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *overFile) Close() error               { return closeAll(f.closers) }

type overDir struct {
	info fs.FileInfo
	rest []fs.DirEntry
}

func (d *overDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *overDir) Close() error               { return nil }
func (d *overDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.Name(), Err: errIsDir}
}

func (d *overDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.rest) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.rest) {
		n = len(d.rest)
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out, nil
}

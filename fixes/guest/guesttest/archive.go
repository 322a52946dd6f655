package guesttest

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"hyper2kvm/fixes/guest"
)

// New makes a tree from a txtar archive; the test ends if it cannot.
func New(t testing.TB, archive string) *FS {
	t.Helper()
	f, err := Parse([]byte(archive))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// NewGuest makes a guest without a Runner from a txtar archive.
func NewGuest(t testing.TB, archive string, facts *guest.Facts) *guest.Guest {
	t.Helper()
	return &guest.Guest{FS: New(t, archive), Facts: facts}
}

// Parse makes a tree from a txtar archive.
func Parse(archive []byte) (*FS, error) {
	f := Empty()
	for _, file := range txtar.Parse(archive).Files {
		if err := f.add(file); err != nil {
			return nil, fmt.Errorf("archive member %q: %w", file.Name, err)
		}
	}
	return f, nil
}

func (f *FS) add(file txtar.File) error {
	fields := strings.Fields(file.Name)
	if len(fields) == 0 {
		return fs.ErrInvalid
	}
	name, isDir := strings.CutSuffix(fields[0], "/")
	if !fs.ValidPath(name) || name == "." {
		return fs.ErrInvalid
	}
	n := &node{attr: guest.Attr{Mode: 0o644}, data: file.Data}
	if isDir {
		n = newDir(guest.Attr{Mode: 0o755})
	}
	for _, field := range fields[1:] {
		if err := n.set(field); err != nil {
			return err
		}
	}
	f.parents(name).kids[path.Base(name)] = n
	return nil
}

func (n *node) set(field string) error {
	key, value, _ := strings.Cut(field, "=")
	var err error
	switch {
	case key == "link":
		n.attr.Mode, n.target, n.data = fs.ModeSymlink|0o777, value, nil
	case key == "mode":
		var bits uint64
		bits, err = strconv.ParseUint(value, 8, 9)
		n.attr.Mode = n.attr.Mode&fs.ModeType | fs.FileMode(bits)
	case key == "uid":
		n.attr.UID, err = strconv.Atoi(value)
	case key == "gid":
		n.attr.GID, err = strconv.Atoi(value)
	case strings.HasPrefix(key, "xattr."):
		if n.attr.Xattrs == nil {
			n.attr.Xattrs = map[string][]byte{}
		}
		n.attr.Xattrs[strings.TrimPrefix(key, "xattr.")] = []byte(value)
	default:
		err = fmt.Errorf("unknown attribute %q", field)
	}
	return err
}

// Dump gives the whole tree, every byte and attribute of it, as text: two trees
// are equal if their dumps are.
func (f *FS) Dump() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	dump(&b, "", f.root)
	return b.String()
}

func dump(b *strings.Builder, name string, n *node) {
	fmt.Fprintf(b, "-- %s %v uid=%d gid=%d", name, n.attr.Mode, n.attr.UID, n.attr.GID)
	for _, key := range slices.Sorted(maps.Keys(n.attr.Xattrs)) {
		fmt.Fprintf(b, " xattr.%s=%q", key, n.attr.Xattrs[key])
	}
	if n.attr.Mode&fs.ModeSymlink != 0 {
		fmt.Fprintf(b, " link=%s", n.target)
	}
	fmt.Fprintf(b, " --\n%s", n.data)
	for _, kid := range slices.Sorted(maps.Keys(n.kids)) {
		dump(b, path.Join(name, kid), n.kids[kid])
	}
}

// ReadFile reads a file; the test ends if it cannot.
func (f *FS) ReadFile(t testing.TB, name string) string {
	t.Helper()
	data, err := fs.ReadFile(f, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Put writes a file with missing folders, root-owned 0644.
func (f *FS) Put(name string, content []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parents(name).kids[path.Base(name)] = &node{attr: guest.Attr{Mode: 0o644}, data: content}
}

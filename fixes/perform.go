package fixes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"

	"hyper2kvm/fixes/guest"
)

// target gives the resolved name that a change writes: a link's own name where
// the change is of the link.
func target(tree guest.FS, c Change) (string, error) {
	var name string
	var err error
	switch c.(type) {
	case Symlink, Remove:
		name, err = resolveNew(tree, c.Target(), guest.ResolveParent)
	default:
		name, err = resolveNew(tree, c.Target(), guest.Resolve)
	}
	if err != nil {
		return "", fmt.Errorf("change %s: %w", c.Target(), err)
	}
	return name, nil
}

// resolveNew resolves a name whose folders may be missing too.
func resolveNew(tree guest.FS, name string, resolve func(guest.Links, string) (string, error)) (string, error) {
	real, err := resolve(tree, name)
	if !errors.Is(err, fs.ErrNotExist) || path.Dir(name) == "." {
		return real, err
	}
	if _, statErr := tree.Stat(path.Dir(name)); !errors.Is(statErr, fs.ErrNotExist) {
		return real, err
	}
	dir, err := resolveNew(tree, path.Dir(name), guest.Resolve)
	return path.Join(dir, path.Base(name)), err
}

// missingDirs lists the folders above name, a resolved one, that do not exist,
// topmost first.
func missingDirs(tree guest.FS, name string) ([]string, error) {
	dir := path.Dir(name)
	if dir == "." {
		return nil, nil
	}
	info, err := tree.Lstat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil, nil
	case err == nil:
		return nil, fmt.Errorf("make %s: %s is no folder", name, dir)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	above, err := missingDirs(tree, dir)
	return append(above, dir), err
}

func makeDirs(tree guest.FS, name string) error {
	dirs, err := missingDirs(tree, name)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := tree.Mkdir(dir, guest.Attr{Mode: 0o755}); err != nil {
			return err
		}
	}
	return nil
}

// perform makes one change, but for a Command. It is the same for the overlay
// of a plan and for the guest itself.
func perform(tree guest.FS, c Change) error {
	name, err := target(tree, c)
	if err != nil {
		return err
	}
	switch c.(type) {
	case AppendFile, Remove:
	default:
		if err := makeDirs(tree, name); err != nil {
			return err
		}
	}
	switch c := c.(type) {
	case WriteFile:
		attr, err := newAttr(tree, name, c.Attr)
		if err != nil {
			return err
		}
		return tree.Write(name, bytes.NewReader(c.Content), attr)
	case AppendFile:
		return appendTo(tree, name, c.Content)
	case CopyFile:
		return copyFile(tree, c.From, name)
	case Symlink:
		return tree.Symlink(c.To, name)
	case Remove:
		if err := tree.Remove(name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return fmt.Errorf("change %s: no way to make a %T", name, c)
}

// newAttr gives the attributes that a written file will have: wanted, or those
// it has, or root-owned 0644. Extended attributes that wanted does not mention
// are kept, so that a security label survives a change of mode.
func newAttr(tree guest.FS, name string, wanted *guest.Attr) (guest.Attr, error) {
	have, err := tree.Attr(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		have = guest.Attr{Mode: 0o644}
	case err != nil:
		return guest.Attr{}, err
	}
	if wanted == nil {
		return have, nil
	}
	attr := *wanted
	if attr.Xattrs == nil {
		attr.Xattrs = have.Xattrs
	}
	return attr, nil
}

func appendTo(tree guest.FS, name string, content []byte) error {
	if a, ok := tree.(guest.Appender); ok {
		return a.Append(name, bytes.NewReader(content))
	}
	return rewrite(tree, name, func(old io.Reader) io.Reader {
		return io.MultiReader(old, bytes.NewReader(content))
	})
}

func truncate(tree guest.FS, name string, size int64) error {
	if a, ok := tree.(guest.Appender); ok {
		return a.Truncate(name, size)
	}
	return rewrite(tree, name, func(old io.Reader) io.Reader { return io.LimitReader(old, size) })
}

// rewrite replaces a file by what change makes of it, streaming.
func rewrite(tree guest.FS, name string, change func(io.Reader) io.Reader) error {
	attr, err := tree.Attr(name)
	if err != nil {
		return err
	}
	f, err := tree.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(tree.Write(name, change(f), attr), f.Close())
}

func copyFile(tree guest.FS, from, name string) error {
	attr, err := tree.Attr(name)
	if errors.Is(err, fs.ErrNotExist) {
		attr, err = tree.Attr(from)
		attr = withoutLabel(tree, attr)
	}
	if err != nil {
		return err
	}
	f, err := tree.Open(from)
	if err != nil {
		return err
	}
	return errors.Join(tree.Write(name, f, attr), f.Close())
}

// unchanged reports whether name, a resolved one, is the same in both trees.
func unchanged(a, b guest.FS, name string) (bool, error) {
	x, err := a.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	y, err := b.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	switch {
	case x == nil || y == nil:
		return x == nil && y == nil, nil
	case x.Mode() != y.Mode():
		return false, nil
	case x.Mode()&fs.ModeSymlink != 0:
		to, err := a.ReadLink(name)
		if err != nil {
			return false, err
		}
		now, err := b.ReadLink(name)
		return to == now, err
	case !x.Mode().IsRegular():
		return true, nil
	case x.Size() != y.Size():
		return false, nil
	}
	if same, err := sameAttr(a, b, name); err != nil || !same {
		return false, err
	}
	return sameBytes(a, b, name)
}

func sameAttr(a, b guest.FS, name string) (bool, error) {
	x, err := a.Attr(name)
	if err != nil {
		return false, err
	}
	y, err := b.Attr(name)
	return equalAttr(x, y), err
}

func equalAttr(x, y guest.Attr) bool {
	return x.Mode == y.Mode && x.UID == y.UID && x.GID == y.GID && maps.EqualFunc(x.Xattrs, y.Xattrs, bytes.Equal)
}

func sameBytes(a, b guest.FS, name string) (bool, error) {
	x, err := a.Open(name)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := b.Open(name)
	if err != nil {
		return false, err
	}
	defer y.Close()
	one, two := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errX := io.ReadFull(x, one)
		m, errY := io.ReadFull(y, two)
		if n != m || !bytes.Equal(one[:n], two[:m]) {
			return false, nil
		}
		if errX != nil || errY != nil {
			return true, errors.Join(notEOF(errX), notEOF(errY))
		}
	}
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

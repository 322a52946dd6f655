package fixes

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/selinux"
)

// labelled is a tree in which all that is made gets its SELinux label: that of
// the guest's policy, or the one of the folder where the policy has none. What
// was there keeps the label that it has.
type labelled struct {
	guest.FS
	labels guest.Labels
	policy *selinux.Policy // nil where the guest has no list of labels
}

// appendable is a labelled tree that can append in place.
type appendable struct {
	*labelled
	guest.Appender
}

// label makes the tree of a guest a labelled one, where its SELinux is on.
func label(g *guest.Guest) guest.FS {
	labels, ok := g.FS.(guest.Labels)
	if !ok || g.Facts == nil || g.Facts.SELinux != "enforcing" && g.Facts.SELinux != "permissive" {
		return g.FS
	}
	policy, err := selinux.Load(g.FS)
	if err != nil {
		policy = nil // the folder's label then; linux/special tells of it
	}
	l := &labelled{FS: g.FS, labels: labels, policy: policy}
	if a, ok := g.FS.(guest.Appender); ok {
		return appendable{l, a}
	}
	return l
}

// Label and SetLabel make it a guest.Labels.
func (l *labelled) Label(name string) ([]byte, error) { return l.labels.Label(name) }

// SetLabel sets the label of name itself.
func (l *labelled) SetLabel(name string, label []byte) error { return l.labels.SetLabel(name, label) }

// want is the label of what is going to be made at name; nil where nothing
// around it has one.
func (l *labelled) want(name string, mode fs.FileMode) []byte {
	if l.policy != nil {
		if text := l.policy.Label(name, mode); text != "" {
			return append([]byte(text), 0)
		}
	}
	above, err := l.labels.Label(path.Dir(name))
	if err != nil {
		return nil
	}
	return above
}

// with adds the label to the attributes of something new.
func (l *labelled) with(name string, mode fs.FileMode, attr guest.Attr) guest.Attr {
	if attr.Xattrs[selinux.Xattr] != nil {
		return attr
	}
	if _, err := l.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return attr
	}
	want := l.want(name, mode)
	if want == nil {
		return attr
	}
	all := map[string][]byte{selinux.Xattr: want}
	maps.Copy(all, attr.Xattrs)
	attr.Xattrs = all
	return attr
}

// Write makes or replaces a file.
func (l *labelled) Write(name string, content io.Reader, attr guest.Attr) error {
	real, err := guest.Resolve(l, name)
	if err != nil {
		real = name // the write says what is wrong with it
	}
	return l.FS.Write(name, content, l.with(real, 0, attr))
}

// Mkdir makes a folder.
func (l *labelled) Mkdir(name string, attr guest.Attr) error {
	return l.FS.Mkdir(name, l.with(name, fs.ModeDir, attr))
}

// Symlink makes a link. One that is replaced hands its label on.
func (l *labelled) Symlink(target, name string) error {
	label, err := l.labels.Label(name)
	if err != nil || label == nil {
		label = l.want(name, fs.ModeSymlink)
	}
	if err := l.FS.Symlink(target, name); err != nil || label == nil {
		return err
	}
	return l.labels.SetLabel(name, label)
}

// labeller is a labelled tree, whichever.
type labeller interface {
	guest.Labels
	want(name string, mode fs.FileMode) []byte
}

// withoutLabel is the attributes of a file for a copy elsewhere, which has a
// label of its own.
func withoutLabel(tree guest.FS, attr guest.Attr) guest.Attr {
	if _, ok := tree.(labeller); ok && attr.Xattrs[selinux.Xattr] != nil {
		attr.Xattrs = maps.Clone(attr.Xattrs)
		delete(attr.Xattrs, selinux.Xattr)
	}
	return attr
}

// labelNew gives a file that a program has made, outside of the guest's own
// kernel, its label.
func labelNew(tree guest.FS, name string) error {
	l, ok := tree.(labeller)
	if !ok {
		return nil
	}
	info, err := tree.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := l.Label(name)
	if err != nil || len(bytes.Trim(have, "\x00")) > 0 {
		return err
	}
	if want := l.want(name, info.Mode()); want != nil {
		return l.SetLabel(name, want)
	}
	return nil
}

// linkLabel is what the journal keeps of a link beside its target.
func linkLabel(tree guest.FS, name string) map[string][]byte {
	l, ok := tree.(guest.Labels)
	if !ok {
		return nil
	}
	if label, err := l.Label(name); err == nil && label != nil {
		return map[string][]byte{selinux.Xattr: label}
	}
	return nil
}

// restoreLink makes a link as it was.
func restoreLink(tree guest.FS, name string, s *state) error {
	if err := makeDirs(tree, name); err != nil {
		return err
	}
	if err := tree.Symlink(s.Target, name); err != nil {
		return err
	}
	l, ok := tree.(guest.Labels)
	if label := s.Xattrs[selinux.Xattr]; ok && label != nil {
		return l.SetLabel(name, label)
	}
	return nil
}

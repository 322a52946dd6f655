package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/formats"
	"hyper2kvm/formats/ovf"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/hostfile"
)

// directory is the folder of a descriptor on the host.
type directory struct {
	dir    string
	policy chain.Policy
	files  map[string]*hostfile.File // by name
	names  []string
	others []string // files of the host that disks opened for themselves
}

func newDirectory(self *hostfile.File, pol Policy) *directory {
	name := filepath.Base(self.Name())
	return &directory{
		dir: filepath.Dir(self.Name()), policy: chain.Policy{Outside: pol.Outside},
		files: map[string]*hostfile.File{name: self}, names: []string{name},
	}
}

func (d *directory) open(name string) (formats.File, error) {
	if f := d.files[name]; f != nil {
		return f.Format(), nil
	}
	f, err := d.policy.OpenFile(d.dir, name)
	if err != nil {
		return formats.File{}, err
	}
	d.files[name] = f
	d.names = append(d.names, name)
	return f.Format(), nil
}

// note says that a chain of its own opened files of the folder.
func (d *directory) note(files []string) {
	d.others = append(d.others, files...)
	for _, f := range files {
		if rel, err := filepath.Rel(d.dir, f); err == nil && !slices.Contains(d.names, rel) {
			d.names = append(d.names, rel)
		}
	}
}

func (d *directory) used() []string { return d.names }

func (d *directory) host() []string {
	out := slices.Clone(d.others)
	for _, f := range d.files {
		out = append(out, f.Name())
	}
	return out
}

func (d *directory) close() error {
	var err error
	for _, f := range d.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// archive is the inside of a tar file.
type archive struct {
	file  *hostfile.File
	index *ovf.Archive
	base  string // folder of the descriptor in it, which names are relative to
	names []string
}

func (a *archive) open(name string) (formats.File, error) {
	if why := outside(name); why != "" {
		return formats.File{}, fmt.Errorf("%q is %s: %w", name, why, formats.ErrRefused)
	}
	m, ok := a.index.Find(path.Join(a.base, name))
	if !ok {
		return formats.File{}, &fs.PathError{Op: "open", Path: a.file.Name() + "/" + name, Err: fs.ErrNotExist}
	}
	if name = path.Clean(name); !slices.Contains(a.names, name) {
		a.names = append(a.names, name)
	}
	return a.index.Open(m), nil
}

// outside says why a name cannot be one of the archive, "" for one that can.
func outside(name string) string {
	switch clean := path.Clean(name); {
	case name == "":
		return "no name"
	case strings.ContainsAny(name, "\x00\\"):
		return "no file name"
	case regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`).MatchString(name):
		return "a URL, not a file"
	case path.IsAbs(name):
		return "an absolute path"
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "outside of the archive"
	}
	return ""
}

func (a *archive) used() []string { return a.names }

func (a *archive) host() []string { return []string{a.file.Name()} }

// descriptor finds the OVF descriptor, and takes its folder for that of all
// names: the only one, or else the first member (DSP0243 2.1.1, 5.3: it comes
// first).
func (a *archive) descriptor() (string, error) {
	var found []string
	for _, m := range a.index.Members {
		if strings.EqualFold(path.Ext(m.Name), ".ovf") {
			found = append(found, m.Name)
		}
	}
	switch {
	case len(found) == 0:
		return "", fmt.Errorf("%s is an archive without an OVF descriptor: %w", a.file.Name(), ErrDescriptor)
	case len(found) > 1 && found[0] != a.index.Members[0].Name:
		return "", fmt.Errorf("%s has %d OVF descriptors: %w", a.file.Name(), len(found), ErrDescriptor)
	}
	a.base = path.Dir(found[0])
	return path.Base(found[0]), nil
}

// beside is the file with the extension that goes with the descriptor: of its
// name, or else the only one; "" for none.
func (a *archive) beside(stem, ext string) string {
	var found []string
	for _, m := range a.index.Members {
		if path.Dir(m.Name) != a.base || !strings.EqualFold(path.Ext(m.Name), ext) {
			continue
		}
		found = append(found, path.Base(m.Name))
	}
	if slices.Contains(found, stem+ext) {
		return stem + ext
	}
	if len(found) == 1 {
		return found[0]
	}
	return ""
}

// openHref opens a file by the reference of a descriptor, which is a URI: what is
// not there as it is written may be there unescaped.
func openHref(f folder, href string) (formats.File, error) {
	file, err := f.open(href)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if plain, e := url.PathUnescape(href); e == nil && plain != href {
		return f.open(plain)
	}
	return file, err
}

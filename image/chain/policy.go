package chain

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/image/hostfile"
)

// open opens a file that an image in dir names, if the policy allows it.
func (p Policy) open(dir, name string) (*hostfile.File, error) {
	name = beside(dir, name)
	if why := p.refuse(name); why != "" {
		return nil, fmt.Errorf("%q is %s: %w", name, why, formats.ErrRefused)
	}
	if p.Outside {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return openRegular(name, os.Stat, func(flag int) (*os.File, error) { return os.OpenFile(name, flag, 0) })
	}
	// A root keeps a symbolic link from leading out of the folder, also when
	// somebody puts it there between two looks.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // only read
	f, err := openRegular(name, root.Stat, func(flag int) (*os.File, error) { return root.OpenFile(name, flag, 0) })
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return f, err
	}
	if info, e := root.Lstat(name); e == nil && info.Mode()&fs.ModeSymlink != 0 && !errors.Is(err, formats.ErrRefused) {
		return nil, fmt.Errorf("%q is a link out of the folder (%w): %w", name, err, formats.ErrRefused)
	}
	return nil, err
}

// beside gives an absolute name of a file in dir, as libvirt writes them, as
// the name alone. It only compares: what an image names is not looked at before
// it is allowed.
func beside(dir, name string) string {
	if !filepath.IsAbs(name) || strings.ContainsRune(name, 0) {
		return name
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return name
	}
	of := filepath.Dir(filepath.Clean(name))
	if real, err := filepath.EvalSymlinks(abs); of == abs || err == nil && of == real {
		return filepath.Base(name)
	}
	return name
}

// openRegular opens a regular file. It looks before it opens, since opening a
// device can do something, and hostfile looks again afterwards.
func openRegular(name string, stat func(string) (fs.FileInfo, error), open func(flag int) (*os.File, error)) (*hostfile.File, error) {
	info, err := stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: hostfile.ErrDirectory}
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is a device or the like: %w", name, formats.ErrRefused)
	}
	f, err := open(os.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if after, err := f.Stat(); err != nil || !after.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%q is no regular file any more: %w", name, formats.ErrRefused), f.Close())
	}
	h, err := hostfile.New(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return h, nil
}

// refuse says why a name may not be opened, "" for one that may.
func (p Policy) refuse(name string) string {
	switch {
	case name == "":
		return "no name"
	case strings.ContainsRune(name, 0):
		return "no file name"
	case isURL(name):
		return "a URL, not a file"
	case isWindowsPath(name):
		return "a path of another system"
	case p.Outside:
		return ""
	case filepath.IsAbs(name):
		return "an absolute path"
	case name == "." || name == ".." || strings.ContainsRune(name, '/'):
		return "in another folder"
	}
	return ""
}

// isURL reports whether the name has a scheme, or a prefix that QEMU takes for
// a protocol ("nbd:", "json:").
func isURL(name string) bool {
	return regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`).MatchString(name)
}

func isWindowsPath(name string) bool {
	return strings.ContainsRune(name, '\\') || regexp.MustCompile(`^[A-Za-z]:`).MatchString(name)
}

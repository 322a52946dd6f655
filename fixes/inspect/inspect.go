// Package inspect finds out what a guest is: its operating system, kernels,
// initramfs generator, boot loader, network configuration. It only reads files,
// runs nothing of the guest, and takes what lies below the files (disks, file
// systems, mounts) from the caller.
package inspect

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// Inspect completes the facts that the caller has (Disks, Filesystems, Mounts,
// Firmware and NICs of the plan, TargetBus) with what the guest's files tell.
// What cannot be read becomes a warning: a guest with a damaged corner can still
// be moved.
func Inspect(tree guest.FS, given guest.Facts) *guest.Facts {
	out := given
	f := &finder{tree: tree, facts: &out}
	f.system()
	f.fstab()
	f.kernels()
	out.Initramfs = f.generator()
	f.loader()
	f.entryKernels()
	f.firmware()
	f.menu()
	f.needs()
	f.network()
	f.tools()
	f.clock()
	return &out
}

// finder is one inspection.
type finder struct {
	tree  guest.FS
	facts *guest.Facts
	// bootFiles are the files that boot entries name, where they were found.
	bootFiles map[string]string
}

func (f *finder) warn(format string, args ...any) {
	f.facts.Warnings = append(f.facts.Warnings, fmt.Sprintf(format, args...))
}

// maxConfig bounds what is read of a configuration file, in bytes.
const maxConfig = 4 << 20

// ErrTooLarge says that a file is larger than a configuration file can be.
var ErrTooLarge = errors.New("file is too large for what it is")

// ReadFile reads a configuration file of a guest.
func ReadFile(tree guest.FS, name string) ([]byte, error) {
	return readUpTo(tree, name, maxConfig)
}

func readUpTo(tree guest.FS, name string, limit int64) ([]byte, error) {
	file, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // read only
	if info, err := file.Stat(); err != nil {
		return nil, err
	} else if info.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a directory")}
	}
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: ErrTooLarge}
	}
	return data, nil
}

// read gives a configuration file; one that is there but cannot be read is
// warned of.
func (f *finder) read(name string) ([]byte, bool) {
	data, err := ReadFile(f.tree, name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.warn("%v", err)
		}
		return nil, false
	}
	return data, true
}

// first gives the first of several files that is there.
func (f *finder) first(names ...string) (data []byte, name string) {
	for _, n := range names {
		if data, ok := f.read(n); ok {
			return data, n
		}
	}
	return nil, ""
}

func (f *finder) exists(name string) bool {
	_, err := f.tree.Stat(name)
	return err == nil
}

func (f *finder) isDir(name string) bool {
	info, err := f.tree.Stat(name)
	return err == nil && info.IsDir()
}

// list gives the paths of a folder's entries whose names end in suffix, sorted.
// A missing folder is empty.
func (f *finder) list(dir, suffix string) []string {
	entries, err := f.tree.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	slices.Sort(out)
	return out
}

// lines gives each line without comment lines and blanks around.
func lines(data []byte) []string {
	var out []string
	s := bufio.NewScanner(bytes.NewReader(data))
	s.Buffer(nil, maxConfig)
	for s.Scan() {
		if l := strings.TrimSpace(s.Text()); l != "" && l[0] != '#' {
			out = append(out, l)
		}
	}
	return out
}

// shellVars reads the KEY=value lines of a file that a shell would source. Only
// quotes are understood, no expansion.
func shellVars(data []byte) map[string]string {
	out := map[string]string{}
	for _, l := range lines(data) {
		key, value, ok := strings.Cut(strings.TrimPrefix(l, "export "), "=")
		if ok && !strings.ContainsAny(key, " \t") {
			out[key] = guest.Unquote(value)
		}
	}
	return out
}

// section is one [name] of an ini file, with its keys in order.
type section struct {
	name   string
	values map[string][]string
}

// get is the last value of a key, as systemd and NetworkManager take it.
func (s section) get(key string) string {
	if v := s.values[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func iniSections(data []byte) []section {
	var out []section
	for _, l := range lines(data) {
		if strings.HasPrefix(l, ";") {
			continue
		}
		if strings.HasPrefix(l, "[") && strings.HasSuffix(l, "]") {
			out = append(out, section{name: l[1 : len(l)-1], values: map[string][]string{}})
			continue
		}
		if key, value, ok := strings.Cut(l, "="); ok && len(out) > 0 {
			s := out[len(out)-1]
			key = strings.TrimSpace(key)
			s.values[key] = append(s.values[key], strings.TrimSpace(value))
		}
	}
	return out
}

// ini gives the named section, all of that name joined.
func ini(data []byte, name string) section {
	out := section{name: name, values: map[string][]string{}}
	for _, s := range iniSections(data) {
		if s.name == name {
			for k, v := range s.values {
				out.values[k] = append(out.values[k], v...)
			}
		}
	}
	return out
}

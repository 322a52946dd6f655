package buildimage

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hyper2kvm/initramfs"
)

// MissingError lists the programs that this machine lacks, with the package
// that brings each.
type MissingError struct{ Programs []initramfs.Program }

func (e *MissingError) Error() string {
	var names []string
	for _, p := range e.Programs {
		names = append(names, fmt.Sprintf("%s (package %s)", p.Name, p.Package))
	}
	return "not installed: " + strings.Join(names, ", ")
}

// Packages are the packages to install, sorted.
func (e *MissingError) Packages() []string {
	var out []string
	for _, p := range e.Programs {
		out = append(out, p.Package)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// program is a program of this machine with all that it loads.
type program struct {
	name  string
	paths []string // absolute; itself first
}

// loadedLater are libraries that glibc opens by itself while a program runs
// (pthread_cancel needs the unwinder), so that no program's list names them.
func loadedLater() []string { return []string{"libgcc_s.so.1"} }

// findPrograms finds the programs of the tools image with their libraries.
func findPrograms() ([]program, error) {
	finder := &libraryFinder{dirs: libraryDirs("/etc/ld.so.conf")}
	var out []program
	missing := &MissingError{}
	for _, p := range initramfs.Programs() {
		at := slices.IndexFunc(p.Paths, func(path string) bool { _, err := os.Stat(path); return err == nil })
		if at < 0 {
			missing.Programs = append(missing.Programs, p)
			continue
		}
		paths, err := finder.closure(p.Paths[at])
		if err != nil {
			return nil, fmt.Errorf("collect libraries of %s (package %s): %w", p.Name, p.Package, err)
		}
		out = append(out, program{p.Name, paths})
	}
	if len(missing.Programs) > 0 {
		return nil, missing
	}
	return out, nil
}

// libraryFinder looks libraries up as the dynamic linker does (ld.so(8)),
// without its cache.
type libraryFinder struct{ dirs []string }

// libraryDirs are the folders that the system's linker searches. Those of
// Debian's multiarch are in its configuration, the others built in.
func libraryDirs(conf string) []string {
	dirs := readLdConf(conf, 0)
	return append(dirs, "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
}

// maxIncludes bounds how deep the files of ld.so.conf include each other.
const maxIncludes = 8

func readLdConf(path string, depth int) []string {
	text, err := os.ReadFile(path)
	if err != nil || depth > maxIncludes {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if pattern, ok := strings.CutPrefix(line, "include "); ok {
			files, _ := filepath.Glob(strings.TrimSpace(pattern))
			for _, f := range files {
				dirs = append(dirs, readLdConf(f, depth+1)...)
			}
		} else if filepath.IsAbs(line) {
			dirs = append(dirs, line)
		}
	}
	return dirs
}

// closure gives a program, its interpreter and all its libraries.
func (l *libraryFinder) closure(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	out := []string{path}
	if interpreter := interpreterOf(f); interpreter != "" {
		out = append(out, interpreter)
	}
	for _, so := range loadedLater() {
		if p, err := l.find(f, "", so); err == nil && len(out) > 1 {
			out = append(out, p)
		}
	}
	for i := 0; i < len(out); i++ {
		libs, err := l.direct(out[i])
		if err != nil {
			return nil, err
		}
		for _, p := range libs {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// direct gives the libraries that one file names.
func (l *libraryFinder) direct(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read needed list of %s: %w", path, err)
	}
	var out []string
	for _, n := range names {
		p, err := l.find(f, path, n)
		if err != nil {
			return nil, err
		}
		if base := filepath.Base(p); !strings.HasPrefix(base, "ld-linux") {
			out = append(out, p)
		}
	}
	return out, nil
}

// find finds the library that f, which lies at path, calls name.
func (l *libraryFinder) find(f *elf.File, path, name string) (string, error) {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, _ := f.DynString(tag)
		for _, p := range paths {
			p = strings.ReplaceAll(p, "$ORIGIN", filepath.Dir(path))
			dirs = append(dirs, filepath.SplitList(p)...)
		}
	}
	for _, dir := range append(dirs, l.dirs...) {
		candidate := filepath.Join(dir, name)
		if sameKind(candidate, f) {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("find library %s of %s: %w", name, path, os.ErrNotExist)
}

// sameKind reports whether the file is for the same machine as f.
func sameKind(path string, f *elf.File) bool {
	c, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer c.Close()
	return c.Machine == f.Machine && c.Class == f.Class
}

func interpreterOf(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		text := make([]byte, min(p.Filesz, 4096))
		if _, err := p.ReadAt(text, 0); err == nil {
			return strings.TrimRight(string(text), "\x00")
		}
	}
	return ""
}

// neededBy lists the libraries that a program names, and its interpreter.
func neededBy(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read program %s: %w", path, err)
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, fmt.Errorf("read program %s: %w", path, err)
	}
	if i := interpreterOf(f); i != "" {
		libs = append(libs, i)
	}
	return libs, nil
}

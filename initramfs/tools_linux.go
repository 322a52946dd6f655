package initramfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// ErrUnknownTool says that neither the tools image nor the kernel has what was
// asked for.
var ErrUnknownTool = errors.New("the appliance does not carry it")

// Tools are the programs and modules of the tools image, unpacked as they are
// asked for. It is safe for several goroutines.
type Tools struct {
	mu       sync.Mutex
	image    *os.File
	manifest *Manifest
	data     int64
	root     string // where files are unpacked; "/" but in tests
	load     func(path string) error
	done     map[string]bool
}

// OpenTools opens the tools image that is attached to this machine. It is not
// read before it is needed.
func OpenTools() (*Tools, error) {
	device, err := waitDisk(ToolsTarget, 0)
	if err != nil {
		return nil, fmt.Errorf("find tools image: %w", err)
	}
	return openTools(device, "/", loadModule)
}

func openTools(path, root string, load func(string) error) (*Tools, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open tools image: %w", err)
	}
	return &Tools{image: f, root: root, load: load, done: map[string]bool{}}, nil
}

// Close closes the image; what was unpacked stays.
func (t *Tools) Close() error { return t.image.Close() }

// Need makes a program ("lvm", "e2fsck") or kernel module ("xfs", "dm_mod")
// available. It costs next to nothing when it already is.
func (t *Tools) Need(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done[name] {
		return nil
	}
	if err := t.read(); err != nil {
		return err
	}
	program := name
	if other, ok := Aliases()[name]; ok {
		program = other
	}
	if paths, ok := t.manifest.Programs[program]; ok {
		if err := t.unpack(paths...); err != nil {
			return fmt.Errorf("unpack %s: %w", program, err)
		}
		if program != name {
			dir := filepath.Dir(filepath.Join(t.root, paths[0]))
			if err := os.Symlink(program, filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("name %s: %w", name, err)
			}
		}
		t.done[name] = true
		return nil
	}
	return t.modprobe(name)
}

// Modprobe loads a module, by its name or by an alias.
func (t *Tools) Modprobe(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.read(); err != nil {
		return err
	}
	return t.modprobe(name)
}

func (t *Tools) read() error {
	if t.manifest != nil {
		return nil
	}
	m, data, err := ReadManifest(t.image)
	if err != nil {
		return err
	}
	t.manifest, t.data = m, data
	return nil
}

func (t *Tools) modprobe(name string) error {
	modules, builtin := t.manifest.Resolve(name)
	if len(modules) == 0 && !builtin {
		return fmt.Errorf("%s: %w", name, ErrUnknownTool)
	}
	for _, m := range modules {
		if err := t.insert(m); err != nil {
			return err
		}
	}
	t.done[name] = true
	return nil
}

// insert loads a module after those it needs; the manifest lists all of them,
// in order.
func (t *Tools) insert(name string) error {
	if t.done[name] {
		return nil
	}
	m, ok := t.manifest.Modules[name]
	if !ok {
		return fmt.Errorf("module %s: %w", name, ErrUnknownTool)
	}
	t.done[name] = true // so that a circle in the manifest ends
	for _, n := range m.Needs {
		if err := t.insert(n); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/sys/module/" + name + "/initstate"); err == nil && t.root == "/" {
		return nil
	}
	if err := t.unpack(m.Path); err != nil {
		return fmt.Errorf("unpack module %s: %w", name, err)
	}
	path := filepath.Join(t.root, m.Path)
	if err := t.load(path); err != nil {
		delete(t.done, name)
		return err
	}
	// The kernel has its own copy now.
	return os.Remove(path)
}

func (t *Tools) unpack(paths ...string) error {
	for _, p := range paths {
		f, ok := t.manifest.Files[p]
		if !ok {
			return fmt.Errorf("%s: %w", p, ErrUnknownTool)
		}
		if err := t.unpackOne(filepath.Join(t.root, filepath.FromSlash(p)), f); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tools) unpackOne(path string, f File) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if f.Link != "" {
		return os.Symlink(f.Link, path)
	}
	// Under another name first: a program that a second process runs while it
	// is unpacked would be half a program.
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(f.Mode).Perm())
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.NewSectionReader(t.image, t.data+f.Offset, f.Size))
	if err == nil && n != f.Size {
		err = io.ErrUnexpectedEOF
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(temp))
	}
	return os.Rename(temp, path)
}

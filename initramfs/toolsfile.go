package initramfs

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
)

// The tools image is a magic string, the length of the manifest, the manifest
// as JSON, and the contents of the files, each at the offset that the manifest
// gives. So one program is had with a few reads, whatever else is in there.
const (
	toolsMagic = "H2KTOOL1"
	// maxManifest bounds the manifest, in bytes.
	maxManifest = 16 << 20
	headerSize  = int64(len(toolsMagic)) + 8
)

// Manifest is the table of contents of a tools image.
type Manifest struct {
	// Files are what the image holds, by path without a leading slash.
	Files map[string]File `json:"files"`
	// Programs gives the paths that a program needs, itself first.
	Programs map[string][]string `json:"programs"`
	// Modules are the kernel modules, by name with underscores.
	Modules map[string]Module `json:"modules"`
	// Aliases gives the module for a name that the kernel asks by
	// ("fs-xfs"); a name may hold shell patterns.
	Aliases map[string][]string `json:"aliases"`
	// Builtin are the modules that the kernel itself contains.
	Builtin []string `json:"builtin"`
}

// File is a file or, with Link, a symbolic link.
type File struct {
	// Offset is where the content begins, counted from the end of the
	// manifest. Both in bytes.
	Offset int64  `json:"offset,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Mode   uint32 `json:"mode,omitempty"` // permission bits
	Link   string `json:"link,omitempty"`
}

// Module is a kernel module; Needs come before it, in this order.
type Module struct {
	Path  string   `json:"path"`
	Needs []string `json:"needs,omitempty"`
}

// WriteTools writes a tools image. content gives the bytes of each file that
// is no link, in the order of their offsets.
func WriteTools(w io.Writer, m *Manifest, content io.Reader) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode manifest of tools: %w", err)
	}
	head := binary.LittleEndian.AppendUint64([]byte(toolsMagic), uint64(len(text)))
	if _, err := w.Write(append(head, text...)); err != nil {
		return fmt.Errorf("write manifest of tools: %w", err)
	}
	if _, err := io.Copy(w, content); err != nil {
		return fmt.Errorf("write tools: %w", err)
	}
	return nil
}

// ReadManifest reads the table of contents of a tools image. data is where the
// offsets of the files count from.
func ReadManifest(r io.ReaderAt) (m *Manifest, data int64, err error) {
	head := make([]byte, headerSize)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, 0, fmt.Errorf("read header of tools image: %w", err)
	}
	if string(head[:len(toolsMagic)]) != toolsMagic {
		return nil, 0, fmt.Errorf("tools image begins with %q, not %q", head[:len(toolsMagic)], toolsMagic)
	}
	size := binary.LittleEndian.Uint64(head[len(toolsMagic):])
	if size > maxManifest {
		return nil, 0, fmt.Errorf("tools image: manifest of %d bytes", size)
	}
	m = &Manifest{}
	if err := json.NewDecoder(io.NewSectionReader(r, headerSize, int64(size))).Decode(m); err != nil {
		return nil, 0, fmt.Errorf("read manifest of tools image: %w", err)
	}
	return m, headerSize + int64(size), nil
}

// ModuleName is how modules are called: as in /proc/modules, with underscores.
func ModuleName(name string) string {
	name = path.Base(name)
	if i := strings.Index(name, ".ko"); i > 0 {
		name = name[:i]
	}
	return strings.ReplaceAll(name, "-", "_")
}

// Resolve gives the modules that a name stands for, which may be an alias:
// none when there are none, and builtin when the kernel has it anyway.
func (m *Manifest) Resolve(name string) (modules []string, builtin bool) {
	plain := ModuleName(name)
	if _, ok := m.Modules[plain]; ok {
		return []string{plain}, false
	}
	for _, b := range m.Builtin {
		if b == plain {
			return nil, true
		}
	}
	if found, ok := m.Aliases[name]; ok {
		return found, false
	}
	for pattern, found := range m.Aliases {
		if !strings.ContainsAny(pattern, "*?[") {
			continue
		}
		if ok, err := path.Match(pattern, name); err == nil && ok {
			modules = append(modules, found...)
		}
	}
	return modules, false
}

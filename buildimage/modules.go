package buildimage

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hyper2kvm/initramfs"
)

// module is one kernel module, unpacked.
type module struct {
	name    string
	path    string // in the appliance, without a leading slash
	data    []byte
	needs   []string
	aliases []string
}

// index finds all modules of the kernel by name.
func (k *kernel) index() error {
	k.byName = map[string]string{}
	err := filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(d.Name(), ".ko") {
			k.byName[initramfs.ModuleName(path)] = path
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list modules: %w", err)
	}
	list, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return fmt.Errorf("list built-in modules: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		k.builtin = append(k.builtin, initramfs.ModuleName(strings.TrimSpace(line)))
	}
	slices.Sort(k.builtin)
	return nil
}

// closure loads modules with all they depend on, each after those it needs.
// missing are those that this kernel does not have.
func (k *kernel) closure(names []string) (mods []*module, missing []string, err error) {
	seen := map[string]bool{}
	var add func(name string, wanted bool) error
	add = func(name string, wanted bool) error {
		if seen[name] || slices.Contains(k.builtin, name) {
			return nil
		}
		seen[name] = true
		if _, ok := k.byName[name]; !ok {
			if wanted {
				missing = append(missing, name)
			}
			return nil
		}
		m, soft, err := k.load(name)
		if err != nil {
			return err
		}
		for _, n := range append(soft, m.needs...) {
			if err := add(n, false); err != nil {
				return err
			}
		}
		m.needs = slices.DeleteFunc(append(soft, m.needs...), func(n string) bool { return k.byName[n] == "" })
		mods = append(mods, m)
		return nil
	}
	for _, n := range names {
		if err := add(initramfs.ModuleName(n), true); err != nil {
			return nil, nil, err
		}
	}
	return mods, missing, nil
}

// maxModule bounds an unpacked module, in bytes.
const maxModule = 128 << 20

// load reads a module and what it says about itself. soft are modules that it
// would like to have before it.
func (k *kernel) load(name string) (m *module, soft []string, err error) {
	path := k.byName[name]
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read module: %w", err)
	}
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		r, err := decompressor(data)
		if err == nil {
			data, err = io.ReadAll(io.LimitReader(r, maxModule))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("unpack module %s: %w", path, err)
		}
	}
	rel, err := filepath.Rel(k.modules, path)
	if err != nil {
		return nil, nil, fmt.Errorf("place module: %w", err)
	}
	rel = rel[:strings.LastIndex(rel, ".ko")+len(".ko")]
	m = &module{name: name, path: filepath.ToSlash(filepath.Join("lib/modules", k.version, rel)), data: slim(data)}
	info, err := modinfo(data)
	if err != nil {
		return nil, nil, fmt.Errorf("read module %s: %w", path, err)
	}
	for _, line := range info {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.needs = append(m.needs, initramfs.ModuleName(d))
				}
			}
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep":
			soft = append(soft, softBefore(value)...)
		}
	}
	return m, soft, nil
}

// softBefore gives the modules of "pre: a b post: c" that come before.
func softBefore(text string) []string {
	var out []string
	before := false
	for _, w := range strings.Fields(text) {
		switch {
		case strings.HasSuffix(w, ":"):
			before = w == "pre:"
		case before:
			out = append(out, initramfs.ModuleName(w))
		}
	}
	return out
}

// modinfo gives the lines that a module says about itself, key=value.
func modinfo(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	text, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("section .modinfo: %w", err)
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == 0 }), nil
}

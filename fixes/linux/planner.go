package linux

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// maxConfig bounds what is read of one configuration file, in bytes. The
// largest real ones are grub.cfg and debconf's database with some megabytes.
const maxConfig = 16 << 20

// planner collects what one fix wants while it reads the guest.
type planner struct {
	fs      guest.FS
	facts   *guest.Facts
	changes []fixes.Change
	notes   []string
}

func (p *planner) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(p.notes, text) {
		p.notes = append(p.notes, text)
	}
}

// read returns the content of a file, and false where there is none to edit.
// One that cannot be read as a file is left with a note, not an error: it must
// not keep the others from being repaired.
func (p *planner) read(name string) ([]byte, bool) {
	f, err := p.fs.Open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			p.note("%s: left as it is: %v", name, err)
		}
		return nil, false
	}
	defer func() { _ = f.Close() }() // read only: nothing to lose
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return nil, false
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	switch {
	case err != nil:
		p.note("%s: left as it is: %v", name, err)
		return nil, false
	case len(data) > maxConfig:
		p.note("%s: left as it is: larger than %d bytes", name, maxConfig)
		return nil, false
	}
	return data, true
}

// write proposes new content for a file, unless it is what the file has.
func (p *planner) write(name string, old, now []byte) {
	if !bytes.Equal(old, now) {
		p.changes = append(p.changes, fixes.WriteFile{Name: name, Content: now})
	}
}

// pending is read with what this fix has already proposed for the file.
func (p *planner) pending(name string) ([]byte, bool) {
	for _, c := range p.changes {
		if w, ok := c.(fixes.WriteFile); ok && w.Name == name {
			return w.Content, true
		}
	}
	return p.read(name)
}

// amend is write for content that came from pending.
func (p *planner) amend(name string, old, now []byte) {
	for i, c := range p.changes {
		if w, ok := c.(fixes.WriteFile); ok && w.Name == name {
			w.Content = now
			p.changes[i] = w
			return
		}
	}
	p.write(name, old, now)
}

// create proposes a new file, or new content of one that we made before.
func (p *planner) create(name, content string) {
	old, ok := p.read(name)
	if !ok || string(old) != content {
		p.changes = append(p.changes, fixes.WriteFile{Name: name, Content: []byte(content)})
	}
}

// like reports whether the guest's system is one of those, or made after one.
func (p *planner) like(ids ...string) bool {
	return slices.ContainsFunc(append([]string{p.facts.OS.ID}, p.facts.OS.IDLike...), func(id string) bool { return slices.Contains(ids, id) })
}

func (p *planner) exists(name string) bool {
	_, err := p.fs.Lstat(name)
	return err == nil
}

// list returns the names of the files in dir that end in suffix, sorted, with
// dir before them. Links and folders count.
func (p *planner) list(dir, suffix string) []string {
	entries, err := p.fs.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	slices.Sort(out)
	return out
}

// once returns the names that are files of their own: of several names for one
// file (links) the first stays.
func (p *planner) once(names []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, name := range names {
		real, err := guest.Resolve(p.fs, name)
		if err != nil || seen[real] {
			continue
		}
		if info, err := p.fs.Lstat(real); err != nil || !info.Mode().IsRegular() {
			continue
		}
		seen[real] = true
		out = append(out, name)
	}
	return out
}

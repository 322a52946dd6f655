package initramfs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/pierrec/lz4/v4"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/cpio"
	"hyper2kvm/formats/kmod"
)

// inject appends a segment that completes the image.
func (p *plan) inject(c *checked) error {
	var members []cpio.Member
	for _, s := range c.stale {
		members = append(members, s.Member)
	}
	slices.SortFunc(members, func(a, b cpio.Member) int { return cmp.Compare(a.Name, b.Name) })
	note := names(members)
	if len(c.missing) > 0 {
		added, err := c.addModules(p.g.FS)
		if err != nil {
			return err
		}
		note = append(moduleNames(added), note...)
		members = append(members, added...)
		members = append(members, c.loadList(p.g.Facts.Initramfs)...)
	}
	content, how, err := p.pack(c, c.img.withDirs(members))
	if err != nil {
		return err
	}
	if err := p.room(c.img.name, int64(len(content))); err != nil {
		return err
	}
	p.out.Changes = append(p.out.Changes, fixes.AppendFile{
		Name: c.img.name, Content: content,
		Note: fmt.Sprintf("cpio segment (%s): %s", how, strings.Join(note, ", ")),
	})
	for _, s := range c.stale {
		p.note("%s: %s replaced: %s", c.img.name, s.Name, s.why)
	}
	return nil
}

func names(members []cpio.Member) []string {
	var out []string
	for _, m := range members {
		out = append(out, m.Name)
	}
	return out
}

func moduleNames(members []cpio.Member) []string {
	var out []string
	for _, m := range members {
		if kmod.IsModule(m.Name) {
			out = append(out, path.Base(m.Name))
		}
	}
	return out
}

// addModules gives the modules that the image lacks and the indexes of what it
// then has.
func (c *checked) addModules(tree guest.FS) ([]cpio.Member, error) {
	dir := c.img.modulesDir(c.version)
	have := c.img.modules(dir)
	list, _ := c.deps.Closure(slices.Concat(c.loadable, c.wanted())...)
	var out []cpio.Member
	var added []*kmod.Module
	for _, m := range list {
		if _, ok := have[m.Name]; ok || c.builtin[m.Name] {
			continue
		}
		data, err := readModule(tree, c.inGuest(m.Path))
		if err != nil {
			return nil, err
		}
		// Unpacked: not every modprobe in an initramfs can do that.
		plain := *m
		plain.Path = path.Join(path.Dir(m.Path), strings.SplitN(path.Base(m.Path), ".ko", 2)[0]+".ko")
		if path.IsAbs(plain.Path) {
			plain.Path = path.Join("updates", path.Base(plain.Path))
		}
		out = append(out, cpio.File(path.Join(dir, plain.Path), data))
		added = append(added, &plain)
	}
	index, err := c.indexes(tree, dir, have, added)
	return append(out, index...), err
}

// inGuest gives a module's path in the guest.
func (c *checked) inGuest(file string) string {
	if path.IsAbs(file) {
		return file[1:]
	}
	return path.Join(c.kernel.Modules, file)
}

func readModule(tree guest.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return kmod.ReadModule(f, name)
}

// indexes writes modules.dep and modules.alias, as text and for modprobe, of the
// modules that the image has and those that are added.
func (c *checked) indexes(tree guest.FS, dir string, have map[string]string, added []*kmod.Module) ([]cpio.Member, error) {
	merged, err := c.mergeDeps(dir, have, added)
	if err != nil {
		return nil, err
	}
	aliases, err := c.mergeAliases(tree, dir, merged, added)
	if err != nil {
		return nil, err
	}
	depIndex, err := merged.Index()
	if err != nil {
		return nil, err
	}
	aliasIndex, err := merged.AliasIndex(aliases)
	if err != nil {
		return nil, err
	}
	out := []cpio.Member{
		cpio.File(path.Join(dir, "modules.dep"), merged.Text()),
		cpio.File(path.Join(dir, "modules.dep.bin"), depIndex),
		cpio.File(path.Join(dir, "modules.alias"), kmod.AliasText(aliases)),
		cpio.File(path.Join(dir, "modules.alias.bin"), aliasIndex),
	}
	soft, err := c.softdeps(tree, dir, added)
	if err != nil || soft == nil {
		return out, err
	}
	return append(out, cpio.File(path.Join(dir, "modules.softdep"), soft)), nil
}

func (c *checked) mergeDeps(dir string, have map[string]string, added []*kmod.Module) (*kmod.Modules, error) {
	var list []*kmod.Module
	if data, ok := c.img.file(path.Join(dir, "modules.dep")); ok {
		m, err := kmod.ParseDep(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		list = m.List
	} else {
		for _, m := range c.deps.List { // in the order of the kernel's own file
			if rel, ok := have[m.Name]; ok {
				list = append(list, &kmod.Module{Name: m.Name, Path: rel, Deps: m.Deps})
			}
		}
	}
	isAdded := map[string]bool{}
	for _, m := range added {
		isAdded[m.Name] = true
	}
	list = slices.DeleteFunc(list, func(m *kmod.Module) bool { return isAdded[m.Name] })
	return kmod.New(append(list, added...)), nil
}

func (c *checked) mergeAliases(tree guest.FS, dir string, merged *kmod.Modules, added []*kmod.Module) ([]kmod.Alias, error) {
	f, err := tree.Open(path.Join(c.kernel.Modules, "modules.alias"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := kmod.ParseAlias(f)
	if err != nil {
		return nil, err
	}
	var out []kmod.Alias
	wantedIn := kmod.New(added)
	if data, ok := c.img.file(path.Join(dir, "modules.alias")); ok {
		if out, err = kmod.ParseAlias(bytes.NewReader(data)); err != nil {
			return nil, err
		}
		out = slices.DeleteFunc(out, func(a kmod.Alias) bool { return wantedIn.Find(a.Module) != nil })
	} else {
		wantedIn = merged
	}
	for _, a := range all {
		if wantedIn.Find(a.Module) != nil {
			out = append(out, a)
		}
	}
	return out, nil
}

// softdeps adds the soft dependencies of the added modules to those that the
// image knows; nil when there are none to add.
func (c *checked) softdeps(tree guest.FS, dir string, added []*kmod.Module) ([]byte, error) {
	f, err := tree.Open(path.Join(c.kernel.Modules, "modules.softdep"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := kmod.ParseSoftdep(f)
	if err != nil {
		return nil, err
	}
	old, _ := c.img.file(path.Join(dir, "modules.softdep"))
	out := bytes.Clone(old)
	in := kmod.New(added)
	for _, s := range all {
		if in.Find(s.Module) != nil && !bytes.Contains(out, []byte(s.Line+"\n")) {
			out = append(out, s.Line+"\n"...)
		}
	}
	if len(out) == len(old) {
		return nil, nil
	}
	return out, nil
}

// loadList is what makes the image load the drivers without being asked by udev.
func (c *checked) loadList(generator string) []cpio.Member {
	if generator == dracut {
		text := strings.Join(c.loadable, "\n") + "\n"
		line := " rd.driver.pre=" + strings.Join(c.loadable, " rd.driver.pre=") + "\n"
		return []cpio.Member{
			cpio.File("etc/modules-load.d/90-hyper2kvm.conf", []byte(text)),
			cpio.File("etc/cmdline.d/90-hyper2kvm.conf", []byte(line)),
		}
	}
	old, _ := c.img.file("conf/modules")
	text := string(old)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	for _, name := range c.loadable {
		if !listed(text, name) {
			text += name + "\n"
		}
	}
	return []cpio.Member{cpio.File("conf/modules", []byte(text))}
}

// listed reports whether a list of modules, one a line with options, has name.
func listed(text, name string) bool {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 0 && kmod.Normal(words[0]) == kmod.Normal(name) {
			return true
		}
	}
	return false
}

// pack writes the segment in a form that the kernel takes in that place, with
// the padding that has to go before it.
func (p *plan) pack(c *checked, members []cpio.Member) (content []byte, how string, err error) {
	var plain bytes.Buffer
	if err := cpio.Write(&plain, members); err != nil {
		return nil, "", err
	}
	// An archive that is not compressed begins at a multiple of 4 bytes.
	padding := make([]byte, -c.img.size&3)
	var out bytes.Buffer
	switch {
	case c.img.last == "lz4":
		// Behind lz4 the kernel looks for another lz4 frame at once; padding is
		// understood from Linux 5.14 on only (lib/decompress_unlz4.c).
		w := lz4.NewWriter(&out)
		if err := w.Apply(lz4.LegacyOption(true)); err != nil {
			return nil, "", err
		}
		_, err := w.Write(plain.Bytes())
		err = errors.Join(err, w.Close())
		return out.Bytes(), "lz4", err
	case p.takesGzip(c):
		out.Write(padding)
		w, err := gzip.NewWriterLevel(&out, gzip.DefaultCompression)
		if err != nil {
			return nil, "", err
		}
		_, err = w.Write(plain.Bytes())
		err = errors.Join(err, w.Close())
		return out.Bytes(), "gzip", err
	}
	return append(padding, plain.Bytes()...), "not compressed", nil
}

// takesGzip reports whether the kernel surely unpacks gzip: its configuration
// says so, or this image is packed with it.
func (p *plan) takesGzip(c *checked) bool {
	if c.img.last == "gzip" {
		return true
	}
	data, err := readSmall(p.g.FS, path.Join(path.Dir(c.kernel.Image), "config-"+c.kernel.Version))
	return err == nil && bytes.Contains(data, []byte("\nCONFIG_RD_GZIP=y\n"))
}

// spare is what a file system needs beside the bytes themselves.
const spare = 64 << 10

// room refuses to fill the file system that name lies on.
func (p *plan) room(name string, need int64) error {
	var best *guest.Mount
	for i, m := range p.g.Facts.Mounts {
		point := strings.TrimPrefix(m.Point, "/")
		if point != "" && !strings.HasPrefix(name, point+"/") {
			continue
		}
		if best == nil || len(m.Point) > len(best.Point) {
			best = &p.g.Facts.Mounts[i]
		}
	}
	if best == nil || need+spare <= best.Free {
		return nil
	}
	return &fixes.SpaceError{Name: name, Need: need + spare, Free: best.Free}
}

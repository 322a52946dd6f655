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
	"hyper2kvm/fixes/inspect"
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
		if what := moduleNames(added); len(what) > 0 {
			note = append(what, note...)
		} else { // the image has them, and its script does not load them
			note = append(names(added), note...)
		}
		members = append(members, added...)
	}
	c.noShorter(members)
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
		did := "added"
		if _, ok := c.img.members[s.Name]; ok {
			did = "replaced"
		}
		p.note("%s: %s %s: %s", c.img.name, s.Name, did, s.why)
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

// addModules gives the modules that the image lacks, the indexes of what it then
// has, and what makes it load them.
func (c *checked) addModules(tree guest.FS) ([]cpio.Member, error) {
	dir := c.modulesDir()
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
		plain := c.inImage(m)
		out = append(out, cpio.File(path.Join(dir, plain.Path), data))
		added = append(added, plain)
	}
	load, err := c.loadList(added)
	if err != nil {
		return nil, err
	}
	out = append(out, load...)
	if c.layout == scripted && c.img.flat() {
		return out, nil // its insmod needs no index
	}
	index, err := c.indexes(tree, dir, have, added)
	return append(out, index...), err
}

// inImage places a module in the image: unpacked, since not every modprobe in an
// initramfs can do that.
func (c *checked) inImage(m *kmod.Module) *kmod.Module {
	plain := *m
	base := strings.SplitN(path.Base(m.Path), ".ko", 2)[0] + ".ko"
	switch {
	case c.layout == scripted && c.img.flat():
		plain.Path = base
	case path.IsAbs(m.Path):
		plain.Path = c.fromAbs(path.Join(path.Dir(m.Path), base))
	default:
		plain.Path = path.Join(path.Dir(m.Path), base)
	}
	return &plain
}

// fromAbs makes a path relative to the modules folder: older depmods write whole
// ones. A module that lies elsewhere goes where updates go.
func (c *checked) fromAbs(file string) string {
	for _, dir := range []string{"/lib/modules/", "/usr/lib/modules/"} {
		if rel, ok := strings.CutPrefix(file, dir+c.version+"/"); ok {
			return rel
		}
	}
	return path.Join("updates", path.Base(file))
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
	return kmod.New(append(list, c.asListed(dir, added)...)), nil
}

// asListed gives modules the form of path that the guest's modprobe knows: those
// before module-init-tools 3.4 look for whole paths, as their depmod wrote them.
func (c *checked) asListed(dir string, added []*kmod.Module) []*kmod.Module {
	if !slices.ContainsFunc(c.deps.List, func(m *kmod.Module) bool { return strings.HasPrefix(m.Path, "/lib/modules/") }) {
		return added
	}
	var out []*kmod.Module
	for _, m := range added {
		whole := *m
		whole.Path = "/" + path.Join(dir, m.Path)
		out = append(out, &whole)
	}
	return out
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

// truncates is the first kernel that cuts a file of the image before it writes a
// later one of the same name over it (init/initramfs.c).
const truncates = "2.6.21"

// noShorter lengthens the texts that are to replace longer ones, where the kernel
// would leave the end of the old one.
func (c *checked) noShorter(members []cpio.Member) {
	if inspect.CompareVersions(c.version, truncates) >= 0 {
		return
	}
	for i, m := range members {
		old, ok := c.img.file(m.Name)
		if more := len(old) - len(m.Data); ok && more > 0 && m.Mode&cpio.TypeMask == cpio.TypeFile {
			members[i].Data = append(bytes.Clone(m.Data), bytes.Repeat([]byte("\n"), more)...)
		}
	}
}

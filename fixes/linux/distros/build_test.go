package distros

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"golang.org/x/tools/txtar"

	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/formats/cpio"
)

// build makes the tree of an archive. Members with these endings stand for files
// that cannot be written as text:
//
//	bin/sh.elf                 "x86_64": a program for that machine
//	boot/vmlinuz-K.kernel      "K": an image with that version in its header
//	EFI/x/BOOTX64.CSV.utf16    text, as the firmware writes it
//	boot/grub2/grubenv.vars    variables: the block of 1024 bytes
//	lib/modules/K/modules.list the modules of a kernel (moduleList)
//	boot/initrd-K.list         an initramfs (imageList)
//	EFI/Linux/x.efi.uki        a unified kernel image (unifiedImage)
func build(t *testing.T, files []txtar.File) *guesttest.FS {
	t.Helper()
	var plain []txtar.File
	made := map[string][]byte{}
	kernels := map[string]*kernelModules{}
	for _, f := range files {
		if dir, base := path.Split(f.Name); base == "modules.list" {
			k := moduleList(t, string(f.Data))
			kernels[path.Base(dir)] = k
			for rel, data := range k.files(t) {
				made[dir+rel] = data
			}
		}
	}
	for _, f := range files {
		text, ext := string(f.Data), path.Ext(f.Name)
		name := strings.TrimSuffix(f.Name, ext)
		switch {
		case path.Base(f.Name) == "modules.list":
		case ext == ".uki":
			made[name] = unifiedImage(t, text, kernels)
		case ext == ".list":
			made[name] = imageList(t, text, kernels)
		case ext == ".vars":
			made[name] = grubEnv(t, text)
		case ext == ".utf16":
			made[name] = utf16Text(text)
		case ext == ".elf":
			made[name] = program(t, strings.TrimSpace(text))
		case ext == ".kernel":
			made[name] = kernelImage(strings.TrimSpace(text))
		default:
			plain = append(plain, f)
		}
	}
	tree := guesttest.New(t, string(txtar.Format(&txtar.Archive{Files: plain})))
	for name, data := range made {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if to, err := tree.ReadLink(dir); err == nil {
				t.Fatalf("%s lies in %s, which is a link to %s", name, dir, to)
			}
		}
		tree.Put(name, data)
	}
	return tree
}

// program is the beginning of an ELF file (System V ABI, figure 4-3).
func program(t *testing.T, machine string) []byte {
	t.Helper()
	number, ok := map[string]uint16{"x86_64": 62, "i686": 3, "aarch64": 183}[machine]
	if !ok {
		t.Fatalf("no machine %q", machine)
	}
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(h[16:], 2)
	binary.LittleEndian.PutUint16(h[18:], number)
	return h
}

// kernelImage is the header of a bzImage with its version (Linux,
// Documentation/arch/x86/boot.rst).
func kernelImage(version string) []byte {
	b := make([]byte, 0x400)
	copy(b[0x1fe:], "\x55\xaa\xeb\x66HdrS\x0c\x02")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	return append(append(b[:0x300], version+" (builder@example.com) #1 SMP"...), 0)
}

// utf16Text is text in little-endian UTF-16 with its mark, as shim's lists have it.
func utf16Text(text string) []byte {
	out := []byte{0xff, 0xfe}
	for _, c := range utf16.Encode([]rune(text)) {
		out = binary.LittleEndian.AppendUint16(out, c)
	}
	return out
}

func grubEnv(t *testing.T, vars string) []byte {
	t.Helper()
	text := "# GRUB Environment Block\n" + vars
	if len(text) > 1024 {
		t.Fatalf("%d bytes do not fit into a grubenv", len(text))
	}
	return []byte(text + strings.Repeat("#", 1024-len(text)))
}

func pack(t *testing.T, how string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch strings.TrimPrefix(how, ".ko") {
	case "", "none":
		return data
	case ".gz", "gzip":
		w = gzip.NewWriter(&b)
	case ".xz", "xz":
		w, err = xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&b) // the usual 8 MiB for each module take their time
	case ".zst", "zstd":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<16))
	case "lz4":
		z := lz4.NewWriter(&b)
		w, err = z, z.Apply(lz4.LegacyOption(true))
	default:
		t.Fatalf("no packer %q", how)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// kernelModules are the modules of one kernel.
type kernelModules struct {
	pack           string // ".ko", ".ko.xz"
	names, builtin []string
}

// moduleList reads the names of a kernel's modules, with a line for how they are
// packed and one for those that are built in:
//
//	pack .ko.xz
//	builtin virtio virtio_ring
//	virtio_pci virtio_blk xfs
func moduleList(t *testing.T, text string) *kernelModules {
	t.Helper()
	k := &kernelModules{pack: ".ko"}
	for l := range strings.Lines(text) {
		switch w := strings.Fields(l); {
		case len(w) == 0:
		case w[0] == "pack":
			k.pack = w[1]
		case w[0] == "builtin":
			k.builtin = append(k.builtin, w[1:]...)
		default:
			k.names = append(k.names, w...)
		}
	}
	for _, name := range append(slices.Clone(k.names), k.builtin...) {
		if _, ok := knownModules()[name]; !ok {
			t.Fatalf("where the module %s lies is not known", name)
		}
	}
	return k
}

func (k *kernelModules) path(name string) string {
	return "kernel/" + knownModules()[name].dir + "/" + name + k.pack
}

func (k *kernelModules) content(t *testing.T, name string) []byte {
	return pack(t, k.pack, []byte("\x7fELF "+name))
}

// dep gives the lines of modules.dep for some of the modules (depmod(8)): all
// that a module needs, those that it needs most directly first.
func (k *kernelModules) dep(names []string) string {
	var b strings.Builder
	for _, name := range names {
		b.WriteString(k.path(name) + ":")
		for _, d := range k.needs(name) {
			b.WriteString(" " + k.path(d))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (k *kernelModules) needs(name string) []string {
	var out []string
	for _, d := range knownModules()[name].deps {
		if !slices.Contains(k.names, d) {
			continue
		}
		out = append(out, d)
		for _, below := range k.needs(d) {
			if !slices.Contains(out, below) {
				out = append(out, below)
			}
		}
	}
	return out
}

func (k *kernelModules) files(t *testing.T) map[string][]byte {
	out := map[string][]byte{"modules.dep": []byte(k.dep(k.names)), "modules.softdep": nil}
	for _, name := range k.names {
		out[k.path(name)] = k.content(t, name)
		for _, a := range knownModules()[name].aliases {
			out["modules.alias"] = append(out["modules.alias"], "alias "+a+" "+name+"\n"...)
		}
	}
	for _, name := range k.builtin {
		out["modules.builtin"] = append(out["modules.builtin"], "kernel/"+knownModules()[name].dir+"/"+name+".ko\n"...)
	}
	return out
}

// imageList makes an initramfs of lines:
//
//	early                      a segment with microcode, not packed, before the rest
//	pack xz                    how the rest is packed; "none" is not at all
//	kernel K usr/lib           whose modules it holds, and below what
//	modules xfs vmw_pvscsi     with all that they need
//	flat lib virtio_blk        modules in one folder, without an index (nash)
//	dir NAME / link NAME TARGET / file NAME CONTENT, with \n and \t in it
func imageList(t *testing.T, text string, kernels map[string]*kernelModules) []byte {
	t.Helper()
	i := &imageBuilder{t: t, pack: "gzip", dirs: map[string]bool{}}
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		word, rest, _ := strings.Cut(l, " ")
		first, second, _ := strings.Cut(rest, " ")
		switch word {
		case "":
		case "early":
			i.early = true
		case "pack":
			i.pack = rest
		case "kernel":
			if i.kernel = kernels[first]; i.kernel == nil {
				t.Fatalf("no kernel %s for an image", first)
			}
			i.dir = path.Join(second, "modules", first)
		case "modules":
			i.names = append(i.names, strings.Fields(rest)...)
		case "flat":
			for _, name := range strings.Fields(second) {
				i.add(cpio.File(first+"/"+name+".ko", []byte("\x7fELF "+name)))
			}
		case "dir":
			i.folders(rest + "/x")
		case "link":
			i.add(cpio.Link(first, second))
		case "file":
			i.add(cpio.File(first, []byte(strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(second))))
		default:
			t.Fatalf("a line for an image begins with %q", word)
		}
	}
	return i.finish()
}

type imageBuilder struct {
	t       *testing.T
	early   bool
	pack    string
	kernel  *kernelModules
	dir     string
	names   []string
	members []cpio.Member
	dirs    map[string]bool
}

func (i *imageBuilder) folders(name string) {
	dir := path.Dir(name)
	if dir == "." || i.dirs[dir] {
		return
	}
	i.folders(dir)
	i.dirs[dir] = true
	i.members = append(i.members, cpio.Dir(dir))
}

func (i *imageBuilder) add(m cpio.Member) {
	i.folders(m.Name)
	i.members = append(i.members, m)
}

func (i *imageBuilder) finish() []byte {
	if i.kernel != nil {
		var all []string
		for _, name := range i.names {
			for _, n := range append(i.kernel.needs(name), name) {
				if !slices.Contains(all, n) {
					all = append(all, n)
				}
			}
		}
		for _, name := range all {
			i.add(cpio.File(path.Join(i.dir, i.kernel.path(name)), i.kernel.content(i.t, name)))
		}
		i.add(cpio.File(path.Join(i.dir, "modules.dep"), []byte(i.kernel.dep(all))))
	}
	var first, main bytes.Buffer
	if i.early {
		i.write(&first, []cpio.Member{cpio.Dir("kernel"), cpio.Dir("kernel/x86"), cpio.Dir("kernel/x86/microcode"),
			cpio.File("kernel/x86/microcode/GenuineIntel.bin", []byte("microcode"))})
	}
	i.write(&main, i.members)
	return append(first.Bytes(), pack(i.t, i.pack, main.Bytes())...)
}

func (i *imageBuilder) write(w io.Writer, members []cpio.Member) {
	if err := cpio.Write(w, members); err != nil {
		i.t.Fatal(fmt.Errorf("write image: %w", err))
	}
}

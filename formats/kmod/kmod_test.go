package kmod

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/formats"
)

const depText = `kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci_legacy_dev.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_legacy_dev.ko kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/char/hw_random/virtio-rng.ko.zst: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
`

func TestNames(t *testing.T) {
	for file, want := range map[string]string{
		"kernel/a/virtio-rng.ko":  "virtio_rng",
		"virtio_blk.ko.xz":        "virtio_blk",
		"/lib/modules/x/y.ko.zst": "y",
		"z.ko.gz":                 "z",
	} {
		if got := Name(file); got != want || !IsModule(file) {
			t.Errorf("Name(%q) = %q, %v", file, got, IsModule(file))
		}
	}
	if IsModule("modules.dep") {
		t.Error("modules.dep is no module")
	}
}

func TestClosure(t *testing.T) {
	m, err := ParseDep(strings.NewReader(depText))
	if err != nil {
		t.Fatal(err)
	}
	mods, missing := m.Closure("virtio-blk", "virtio_pci", "nvme")
	var names []string
	for _, mod := range mods {
		names = append(names, mod.Name)
	}
	want := []string{"virtio", "virtio_ring", "virtio_blk", "virtio_pci_legacy_dev", "virtio_pci"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(missing, []string{"nvme"}) {
		t.Errorf("missing %v", missing)
	}
	if string(m.Text()) != depText {
		t.Errorf("written again:\n%s", m.Text())
	}
	loop, err := ParseDep(strings.NewReader("a.ko: b.ko\nb.ko: a.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	if mods, _ := loop.Closure("a"); len(mods) != 2 {
		t.Errorf("a loop gives %d modules", len(mods))
	}
}

func TestParsers(t *testing.T) {
	aliases, err := ParseAlias(strings.NewReader("# c\nalias pci:v1*-[a-c] virtio-pci\nalias with space mod\n"))
	if err != nil || len(aliases) != 2 || aliases[1] != (Alias{"with space", "mod"}) {
		t.Errorf("%v, %v", aliases, err)
	}
	if got := normalPattern("a-b[c-d]e-f"); got != "a_b[c-d]e_f" {
		t.Errorf("pattern became %q", got)
	}
	soft, err := ParseSoftdep(strings.NewReader("softdep ext4 pre: crypto-crc32c\nsoftdep cifs gcm\nsoftdep x pre: a b post: c\n"))
	if err != nil || len(soft) != 3 || !slices.Equal(soft[2].Pre, []string{"a", "b"}) || !slices.Equal(soft[2].Post, []string{"c"}) {
		t.Errorf("%v, %v", soft, err)
	}
	builtin, err := ParseBuiltin(strings.NewReader("kernel/fs/ext4/ext4.ko\n"))
	if err != nil || !builtin["ext4"] {
		t.Errorf("%v, %v", builtin, err)
	}
	if _, err := ParseDep(strings.NewReader("no colon\n")); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if _, err := ParseDep(strings.NewReader(strings.Repeat("x", maxLine+10))); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// kernels finds modules folders to compare with: of this machine and of what
// H2K_MODULES names.
func kernels(t *testing.T) []string {
	dirs, err := filepath.Glob("/lib/modules/*/modules.dep.bin")
	if err != nil {
		t.Fatal(err)
	}
	if extra := os.Getenv("H2K_MODULES"); extra != "" {
		dirs = append(dirs, filepath.Join(extra, "modules.dep.bin"))
	}
	if len(dirs) == 0 {
		t.Skip("no modules folder: set H2K_MODULES to one")
	}
	return dirs
}

// TestIndexesAreThoseOfDepmod compares whole files.
func TestIndexesAreThoseOfDepmod(t *testing.T) {
	for _, file := range kernels(t) {
		dir := filepath.Dir(file)
		m, aliases, symbols := readDir(t, dir)
		got, err := m.Index()
		compareFile(t, filepath.Join(dir, "modules.dep.bin"), got, err)
		got, err = m.AliasIndex(aliases)
		compareFile(t, filepath.Join(dir, "modules.alias.bin"), got, err)
		got, err = m.AliasIndex(symbols)
		compareFile(t, filepath.Join(dir, "modules.symbols.bin"), got, err)
	}
}

func compareFile(t *testing.T, name string, got []byte, err error) {
	t.Helper()
	want, readErr := os.ReadFile(name)
	if err = errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return // so it is with kmod 30; kmod 34 lays the nodes out in another order
	}
	a, err := ParseIndex(want)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseIndex(got)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || !slices.Equal(a, b) {
		t.Errorf("%s: %d bytes with %d entries, want %d with %d", name, len(got), len(b), len(want), len(a))
	}
}

func readDir(t *testing.T, dir string) (*Modules, []Alias, []Alias) {
	t.Helper()
	open := func(name string) *os.File {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	m, err := ParseDep(open("modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	aliases, err := ParseAlias(open("modules.alias"))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := ParseAlias(open("modules.symbols"))
	if err != nil {
		t.Fatal(err)
	}
	return m, aliases, symbols
}

// TestModprobeReadsTheIndexes writes the indexes of a small folder and asks the
// real modprobe.
func TestModprobeReadsTheIndexes(t *testing.T) {
	modprobe := "/usr/sbin/modprobe"
	if _, err := os.Stat(modprobe); err != nil {
		t.Skip("modprobe is the oracle and is not here")
	}
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules/6.1-test")
	m, err := ParseDep(strings.NewReader(depText))
	if err != nil {
		t.Fatal(err)
	}
	aliases := []Alias{{"pci:v00001AF4d*sv*sd*bc*sc*i*", "virtio_pci"}, {"virtio:d00000002v*", "virtio_blk"}}
	dep, depErr := m.Index()
	alias, aliasErr := m.AliasIndex(aliases)
	none, noneErr := WriteIndex(nil)
	if err := errors.Join(depErr, aliasErr, noneErr, os.MkdirAll(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"modules.dep": m.Text(), "modules.dep.bin": dep, "modules.alias": AliasText(aliases), "modules.alias.bin": alias,
		"modules.softdep": nil, "modules.symbols.bin": none, "modules.builtin.bin": none, "modules.builtin.alias.bin": none,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, mod := range m.List {
		file := filepath.Join(dir, mod.Path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string][]string{
		"virtio:d00000002v00001AF4":                             {"virtio.ko", "virtio_ring.ko", "virtio_blk.ko.xz"},
		"pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00": {"virtio.ko", "virtio_ring.ko", "virtio_pci_legacy_dev.ko", "virtio_pci.ko"},
		"virtio-rng": {"virtio.ko", "virtio_ring.ko", "virtio-rng.ko.zst"},
	} {
		out, err := exec.Command(modprobe, "-d", root, "-S", "6.1-test", "-D", query).CombinedOutput()
		if err != nil {
			t.Fatalf("modprobe %s: %v: %s", query, err, out)
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			got = append(got, filepath.Base(strings.TrimSpace(line)))
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("modprobe %s:\n%s", query, diff)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	seed, err := WriteIndex([]Entry{{"virtio_blk", "kernel/x.ko:", 1}, {"virtio", "y", 0}, {"virtio", "z", 5}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ParseIndex(data)
		if err != nil {
			return
		}
		written, err := WriteIndex(entries)
		if err != nil {
			return // keys that cannot be written
		}
		again, err := ParseIndex(written)
		if err != nil || len(again) != len(entries) {
			t.Fatalf("written again: %d entries of %d, %v", len(again), len(entries), err)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add([]byte(depText))
	f.Add([]byte("alias a b\nsoftdep a pre: b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseDep(bytes.NewReader(data)); err == nil {
			again, err := ParseDep(bytes.NewReader(m.Text()))
			if err != nil || len(again.List) != len(m.List) {
				t.Fatalf("written again: %v", err)
			}
			m.Closure("a", "virtio_blk")
		}
		_, _ = ParseAlias(bytes.NewReader(data))
		_, _ = ParseSoftdep(bytes.NewReader(data))
		_, _ = ParseBuiltin(bytes.NewReader(data))
	})
}

package initramfs

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// small is a tools image with one program, one library and two modules.
func small(t testing.TB) []byte {
	t.Helper()
	m := &Manifest{
		Files: map[string]File{
			"sbin/lvm":              {Offset: 0, Size: 4, Mode: 0o755},
			"lib/libdm.so":          {Offset: 4, Size: 3, Mode: 0o755},
			"lib/libc.so":           {Link: "libdm.so"},
			"lib/modules/a.ko":      {Offset: 7, Size: 2, Mode: 0o644},
			"lib/modules/crc.ko":    {Offset: 9, Size: 1, Mode: 0o644},
			"lib/modules/circle.ko": {Offset: 9, Size: 1, Mode: 0o644},
		},
		Programs: map[string][]string{"lvm": {"sbin/lvm", "lib/libdm.so", "lib/libc.so"}, "broken": {"sbin/broken"}, "mke2fs": {"sbin/lvm"}},
		Modules: map[string]Module{
			"a_fs":   {Path: "lib/modules/a.ko", Needs: []string{"crc"}},
			"crc":    {Path: "lib/modules/crc.ko"},
			"circle": {Path: "lib/modules/circle.ko", Needs: []string{"circle"}},
		},
		Aliases: map[string][]string{"fs-a": {"a_fs"}, "crypto-crc*": {"crc"}},
		Builtin: []string{"ext4"},
	}
	var out bytes.Buffer
	if err := WriteTools(&out, m, strings.NewReader("ELF!DM1AAC")); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestNamesResolve(t *testing.T) {
	m, data, err := ReadManifest(bytes.NewReader(small(t)))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(small(t)[data:]); got != "ELF!DM1AAC" {
		t.Errorf("contents = %q", got)
	}
	for name, want := range map[string]string{
		"a_fs": "a_fs", "a-fs": "a_fs", "fs-a": "a_fs", "crypto-crc32c": "crc", "ext4": "builtin", "zfs": "",
	} {
		mods, builtin := m.Resolve(name)
		got := strings.Join(mods, ",")
		if builtin {
			got = "builtin"
		}
		if got != want {
			t.Errorf("Resolve(%s) = %q, want %q", name, got, want)
		}
	}
}

func TestListsHaveNoDoubles(t *testing.T) {
	var programs []string
	for _, p := range Programs() {
		programs = append(programs, p.Name)
		if p.Package == "" || len(p.Paths) == 0 {
			t.Errorf("%s: package %q, paths %v", p.Name, p.Package, p.Paths)
		}
	}
	for name, list := range map[string][]string{"Boot": Boot(), "Modules": Modules(), "Programs": programs} {
		sorted := slices.Sorted(slices.Values(list))
		if len(slices.Compact(slices.Clone(sorted))) != len(list) {
			t.Errorf("%s names something twice: %v", name, sorted)
		}
	}
	for other, name := range Aliases() {
		if !slices.Contains(programs, name) {
			t.Errorf("%s stands for %s, which is not carried", other, name)
		}
	}
}

func FuzzReadManifest(f *testing.F) {
	f.Add(small(f))
	f.Add([]byte("H2KTOOL1\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Add([]byte("H2KTOOL1"))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, data, err := ReadManifest(bytes.NewReader(in))
		if (m == nil) == (err == nil) {
			t.Errorf("manifest %v with error %v", m, err)
		}
		if err == nil && data > int64(len(in)) {
			t.Errorf("contents at %d of %d bytes", data, len(in))
		}
	})
}

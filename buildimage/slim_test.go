package buildimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os/exec"
	"strings"
	"testing"
)

// TestSlimModulesAreWhole has modinfo read a slimmed module, and looks that
// nothing but the named section lost its name.
func TestSlimModulesAreWhole(t *testing.T) {
	k, err := openKernel(tree(t))
	if err != nil {
		t.Fatal(err)
	}
	mods, missing, err := k.closure([]string{"xfs"})
	if err != nil || len(missing) > 0 {
		t.Fatal(missing, err)
	}
	for _, m := range mods {
		f, err := elf.NewFile(bytes.NewReader(m.data))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{".modinfo", ".gnu.linkonce.this_module", ".symtab"} {
			if f.Section(name) == nil {
				t.Errorf("%s has no section %s", m.name, name)
			}
		}
		if f.Section(".BTF") != nil || bytes.Contains(m.data, []byte(signatureMark)) {
			t.Errorf("%s still has type data or a signature", m.name)
		}
		cmd := exec.Command("modinfo", "-F", "vermagic", "/dev/stdin")
		cmd.Stdin = bytes.NewReader(m.data)
		if out, err := cmd.Output(); err == nil && !strings.HasPrefix(string(out), k.version) {
			t.Errorf("modinfo of %s: %q", m.name, out)
		}
	}
}

func FuzzSlim(f *testing.F) {
	f.Add(append(append([]byte("module"), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2), signatureMark...))
	f.Add(append(append([]byte("module"), 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), signatureMark...))
	header := make([]byte, 256)
	copy(header, elf.ELFMAG)
	header[4], header[5] = 2, 1
	binary.LittleEndian.PutUint64(header[elfSectionsAt:], 64)
	f.Add(header)
	f.Fuzz(func(t *testing.T, in []byte) {
		if out := slim(bytes.Clone(in)); len(out) > len(in) {
			t.Errorf("%d bytes became %d", len(in), len(out))
		}
	})
}

package linux

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"strings"
	"testing"

	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/formats/cpio"
)

// addPrograms makes what a text cannot hold: a program that tells the machine,
// and, of a file that begins with "uki", a unified kernel image whose sections
// are the lines that follow. That of the initramfs lists the names of its files.
func addPrograms(t *testing.T, tree *guesttest.FS) {
	t.Helper()
	tree.Put("bin/sh", []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00"))
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(strings.ToLower(name), ".efi") {
			return err
		}
		data, err := fs.ReadFile(tree, name)
		if text, ok := strings.CutPrefix(string(data), "uki"); ok && err == nil {
			tree.Put(name, unifiedProgram(t, text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// unifiedProgram makes a PE32+ image of lines "section text", after a first that
// may say " signed".
func unifiedProgram(t *testing.T, text string) []byte {
	t.Helper()
	const head, sectionHead = 0x400, 40
	le := binary.LittleEndian
	first, rest, _ := strings.Cut(text, "\n")
	lines := strings.Split(strings.TrimSpace(rest), "\n")
	lines = lines[:min(len(lines), (head-0x58-240)/sectionHead)]
	b := make([]byte, head)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x44:], 0x8664)
	le.PutUint16(b[0x46:], uint16(len(lines)))
	le.PutUint16(b[0x54:], 240)
	le.PutUint16(b[0x58:], 0x20b)
	le.PutUint32(b[0x58+108:], 16)
	if strings.Contains(first, "signed") {
		le.PutUint32(b[0x58+112+4*8:], head)
		le.PutUint32(b[0x58+112+4*8+4:], 8)
	}
	for i, l := range lines {
		name, value, _ := strings.Cut(l, " ")
		content := []byte(strings.ReplaceAll(value, `\n`, "\n"))
		if name == ".initrd" {
			content = archiveOf(t, strings.Fields(value))
		}
		h := b[0x58+240+i*sectionHead:]
		copy(h[:8], name)
		le.PutUint32(h[8:], uint32(len(content)))
		le.PutUint32(h[16:], uint32(len(content)))
		le.PutUint32(h[20:], uint32(len(b)))
		b = append(b, content...)
	}
	return b
}

func archiveOf(t *testing.T, names []string) []byte {
	t.Helper()
	var members []cpio.Member
	for _, name := range names {
		if fs.ValidPath(name) && name != "." {
			members = append(members, cpio.File(name, []byte("x")))
		}
	}
	var b bytes.Buffer
	if err := cpio.Write(&b, members); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

package pe

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hyper2kvm/formats"
)

// build makes a PE32+ image for x86-64 with sections, and a table of
// certificates where signed is set.
func build(signed bool, sections ...string) []byte {
	const headers = 0x200
	le := binary.LittleEndian
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x44:], 0x8664)
	le.PutUint16(b[0x46:], uint16(len(sections)/2))
	le.PutUint16(b[0x54:], 240)
	opt := b[0x58:]
	le.PutUint16(opt, pe32plus)
	le.PutUint32(opt[108:], 16)
	if signed {
		le.PutUint32(opt[112+certificates*8:], headers)
		le.PutUint32(opt[112+certificates*8+4:], 8)
	}
	for i := 0; i < len(sections); i += 2 {
		h := b[0x58+240+i/2*sectionHeader:]
		copy(h[:8], sections[i])
		le.PutUint32(h[8:], uint32(len(sections[i+1])))
		le.PutUint32(h[16:], uint32(len(sections[i+1])+7)/8*8)
		le.PutUint32(h[20:], uint32(len(b)))
		b = append(b, make([]byte, (len(sections[i+1])+7)/8*8)...)
		copy(b[le.Uint32(h[20:]):], sections[i+1])
	}
	return b
}

func TestSections(t *testing.T) {
	for _, signed := range []bool{false, true} {
		data := build(signed, ".osrel", "ID=arch\n\x00", ".cmdline", "root=UUID=1 ro", ".cmdline", "of a profile")
		img, err := Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if img.Signed != signed || img.Machine != 0x8664 {
			t.Errorf("signed %v, machine %#x", img.Signed, img.Machine)
		}
		if text, err := img.Text(".cmdline", 100); text != "root=UUID=1 ro" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		if text, err := img.Text(".osrel", 100); text != "ID=arch\n" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		if _, err := img.Text(".cmdline", 5); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("a section that is too long for text: %v", err)
		}
		if _, ok := img.Section(".initrd"); ok {
			t.Error("there is no such section")
		}
	}
}

func TestDamaged(t *testing.T) {
	whole := build(true, ".linux", "kernel", ".initrd", "cpio")
	for n := range whole {
		if _, err := Read(bytes.NewReader(whole[:n]), int64(n)); err == nil && n < len(whole)-7 {
			t.Fatalf("%d of %d bytes are taken for an image", n, len(whole))
		}
	}
	if _, err := Read(bytes.NewReader([]byte("#!/bin/sh\n")), 10); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("a script: %v", err)
	}
	text := bytes.Repeat([]byte("no program "), 20)
	if _, err := Read(bytes.NewReader(text), int64(len(text))); !errors.Is(err, formats.ErrFormat) {
		t.Errorf("a text: %v", err)
	}
}

// TestUnifiedImage has objcopy put a unified kernel image together from systemd's
// stub, as systemd-stub(7) says, and read it apart again: both must agree.
func TestUnifiedImage(t *testing.T) {
	const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	if _, err := os.Stat(stub); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd's stub is needed (package systemd-boot-efi)")
		}
		t.Skip("systemd's stub is not installed (package systemd-boot-efi)")
	}
	dir := t.TempDir()
	contents := map[string]string{
		".osrel": "ID=debian\nVERSION_ID=12\n", ".cmdline": "root=UUID=0123 ro quiet", ".uname": "6.1.0-25-amd64",
		".linux": string(bytes.Repeat([]byte("kernel"), 1000)), ".initrd": string(bytes.Repeat([]byte("cpio"), 3000)),
	}
	args := []string{}
	at := 0x2000000
	for _, name := range []string{".osrel", ".cmdline", ".uname", ".linux", ".initrd"} {
		file := filepath.Join(dir, name[1:])
		if err := os.WriteFile(file, []byte(contents[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--add-section", name+"="+file, "--change-section-vma", fmt.Sprintf("%s=%#x", name, at))
		at += 0x100000
	}
	uki := filepath.Join(dir, "uki.efi")
	if out, err := exec.CommandContext(t.Context(), "objcopy", append(args, stub, uki)...).CombinedOutput(); err != nil {
		t.Fatalf("objcopy: %v\n%s", err, out)
	}
	f, err := os.Open(uki)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	if img.Signed {
		t.Error("nobody signed it")
	}
	for name, want := range contents {
		s, ok := img.Section(name)
		if !ok {
			t.Errorf("no section %s", name)
			continue
		}
		if got, err := io.ReadAll(s); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes of %d, %v", name, len(got), len(want), err)
		}
	}
	compareWithLibrary(t, uki, img)
}

// TestSigned has programs of Debian: GRUB's image is signed, systemd-boot is not.
func TestSigned(t *testing.T) {
	for name, want := range map[string]bool{
		"/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": true,
		"/usr/lib/systemd/boot/efi/systemd-bootx64.efi":      false,
	} {
		f, err := os.Open(name)
		if err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("the packages grub-efi-amd64-signed and systemd-boot-efi are needed: %v", err)
			}
			t.Skipf("package grub-efi-amd64-signed or systemd-boot-efi: %v", err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		img, err := Read(f, info.Size())
		if err != nil {
			t.Fatal(err)
		}
		if img.Signed != want {
			t.Errorf("%s: signed %v", name, img.Signed)
		}
		compareWithLibrary(t, name, img)
	}
}

// compareWithLibrary holds that Go's own reader, which is not made for hostile
// files, sees the same table.
func compareWithLibrary(t *testing.T, name string, img *Image) {
	t.Helper()
	other, err := pe.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if len(other.Sections) != len(img.Sections) || other.Machine != img.Machine {
		t.Fatalf("%d sections, want %d", len(img.Sections), len(other.Sections))
	}
	for i, s := range other.Sections {
		if img.Sections[i].Name != s.Name || img.Sections[i].Offset != int64(s.Offset) || img.Sections[i].Size > int64(s.Size) {
			t.Errorf("section %d is %+v, want %+v", i, img.Sections[i], s.SectionHeader)
		}
	}
}

// FuzzRead holds that every section that is listed can be read to its end.
func FuzzRead(f *testing.F) {
	f.Add(build(false, ".cmdline", "ro"))
	f.Add(build(true, ".linux", "x", ".initrd", ""))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, data []byte) {
		img, err := Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, s := range img.Sections {
			if s.Size < 0 || s.Size > int64(len(data)) {
				t.Fatalf("section %+v of a file of %d", s, len(data))
			}
		}
		for _, name := range []string{".cmdline", ".osrel", ".linux"} {
			if s, ok := img.Section(name); ok {
				if n, err := io.Copy(io.Discard, s); err != nil || n != s.Size() {
					t.Fatalf("%s: %d of %d bytes: %v", name, n, s.Size(), err)
				}
			}
		}
	})
}

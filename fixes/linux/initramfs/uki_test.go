package initramfs

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/formats/cpio"
)

type section struct {
	name string
	data []byte
}

// unifiedKernel makes a PE file with the headers that are looked at (PE Format,
// "COFF File Header", "Optional Header", "Section Table").
func unifiedKernel(signed bool, sections ...section) []byte {
	const start = 0x80
	b := make([]byte, start, 1<<12)
	copy(b, "MZ")
	b[0x3c] = start
	le := binary.LittleEndian
	b = append(b, "PE\x00\x00"...)
	for _, v := range []uint16{0x8664, uint16(len(sections)), 0, 0, 0, 0, 0, 0, 240, 0x22} {
		b = le.AppendUint16(b, v)
	}
	optional := make([]byte, 240)
	le.PutUint16(optional, 0x20b)
	le.PutUint32(optional[108:], 16)
	if signed {
		le.PutUint32(optional[112+8*certificates+4:], 1000)
	}
	b = append(b, optional...)
	at := uint32(0x400)
	for _, s := range sections {
		head := make([]byte, 40)
		copy(head, s.name)
		size := uint32(len(s.data)+511) &^ 511
		for i, v := range []uint32{uint32(len(s.data)), at, size, at} {
			le.PutUint32(head[8+4*i:], v)
		}
		b = append(b, head...)
		at += size
	}
	b = append(b, make([]byte, 0x400-len(b))...)
	for _, s := range sections {
		b = append(b, s.data...)
		b = append(b, make([]byte, -len(s.data)&511)...)
	}
	return b
}

func archive(t testing.TB, members []cpio.Member) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := cpio.Write(&b, members); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestUnifiedKernelImages are read and not written: what they lack is said, and
// what a user does.
func TestUnifiedKernelImages(t *testing.T) {
	const dir = "boot/efi/EFI/Linux/"
	tree, g := newGuest(t, "dracut", "gzip", vmwareImage())
	g.Facts.Loader.ESP = "boot/efi"
	if err := tree.Symlink("usr/lib", "lib"); err != nil {
		t.Fatal(err)
	}
	small := archive(t, vmwareImage())
	put(tree, map[string][]byte{
		dir + "signed.efi":  unifiedKernel(true, section{".initrd", pack(t, "zstd", small)}, section{".uname", []byte(version)}),
		dir + "own.efi":     unifiedKernel(false, section{".uname", []byte(version + "\n")}, section{".linux", []byte("kernel")}, section{".initrd", small}),
		dir + "other.efi":   unifiedKernel(false, section{".uname", []byte("9.9")}, section{".initrd", small}),
		dir + "no.efi":      []byte("MZ and no more"),
		dir + "damaged.efi": unifiedKernel(false, section{".uname", []byte(version)}, section{".initrd", []byte("070701 is not enough")}),
	})
	whole := vmwareImage()
	for _, name := range []string{"virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci", "block/virtio_blk", "scsi/virtio_scsi"} {
		whole = append(whole, cpio.File(modDir+"/kernel/drivers/"+name+".ko.zst", []byte("packed")))
	}
	tree.Put(dir+"fit.efi", unifiedKernel(true, section{".uname", []byte(version)}, section{".initrd", archive(t, whole)}))
	p := apply(t, g, Auto)
	wantNotes(t, p, []string{
		dir + "signed.efi lacks virtio virtio_ring virtio_pci virtio_blk virtio_scsi and is left as it is, a signature covers it: make it anew",
		dir + "own.efi lacks virtio virtio_ring virtio_pci virtio_blk virtio_scsi and is left as it is: make it anew",
		dir + "other.efi: there are no modules of its kernel \"9.9\"",
		dir + "no.efi: read", dir + "damaged.efi: read",
	})
	for _, note := range p.Results[0].Notes {
		if bytes.Contains([]byte(note), []byte("fit.efi")) {
			t.Errorf("a fit image is complained of: %s", note)
		}
	}
	if again := apply(t, g, Auto); again.Results[0].State != fixes.Unchanged {
		t.Errorf("a second run changes:\n%s", again.Results[0].Diff)
	}
}

// TestUnifiedKernelImageIsMadeAnew where mkinitcpio does that without a signature
// and without the command line of another machine.
func TestUnifiedKernelImageIsMadeAnew(t *testing.T) {
	const name = "efi/EFI/Linux/arch-linux.efi"
	for _, cmdline := range []bool{true, false} {
		tree, g := newGuest(t, "mkinitcpio", "gzip", nil)
		g.Facts.Kernels, g.Facts.Loader.ESP = nil, "efi"
		if err := tree.Symlink("usr/lib", "lib"); err != nil {
			t.Fatal(err)
		}
		tree.Put("usr/bin/mkinitcpio", []byte("#!/bin/bash\n_d_config=\n  -U, --uki\n"))
		tree.Put(mkinitcpioMain, []byte("MODULES=()\n"))
		tree.Put(name, unifiedKernel(false, section{".uname", []byte(version)}, section{".initrd", archive(t, vmwareImage())}))
		run := &without{tree: tree}
		g.Run = run
		if cmdline {
			tree.Put("etc/kernel/cmdline", []byte("root=UUID=1\n"))
		}
		p := apply(t, g, Auto)
		want := []string{"mkinitcpio -k " + version + " -S autodetect -U /" + name}
		if !cmdline {
			want = nil
			wantNotes(t, p, []string{name + " lacks virtio"})
		}
		if !slices.Equal(run.ran, want) {
			t.Errorf("ran %q, want %q", run.ran, want)
		}
		if got := tree.ReadFile(t, mkinitcpioConf); got != comment+"MODULES+=(virtio_pci virtio_blk virtio_scsi sd_mod vmw_pvscsi)\n" {
			t.Errorf("configured: %q", got)
		}
		findings, err := Verify(t.Context(), g)
		if err != nil || len(findings) != 1 || !findings[0].Fatal() || findings[0].Kernel != version {
			t.Errorf("%+v, %v: the guest has nothing else to start", findings, err) // the stand-in for mkinitcpio wrote none
		}
	}
}

func put(tree *guesttest.FS, files map[string][]byte) {
	for name, data := range files {
		tree.Put(name, data)
	}
}

// FuzzUKI: whatever the bytes, reading ends, and what is read lies in the file.
func FuzzUKI(f *testing.F) {
	f.Add(unifiedKernel(true, section{".uname", []byte(version)}, section{".initrd", archive(f, vmwareImage())}))
	f.Add(unifiedKernel(false))
	f.Fuzz(func(t *testing.T, data []byte) {
		tree := guesttest.Empty()
		tree.Put("x.efi", slices.Clone(data))
		u, err := readUKI(tree, "x.efi")
		if err == nil && u.version != "" && !bytes.Contains(data, []byte(u.version)) {
			t.Errorf("version %q is not in the file", u.version)
		}
	})
}

// TestBuiltIn: what the configuration of an old kernel, which has no
// modules.builtin, says is built in counts as there.
func TestBuiltIn(t *testing.T) {
	tree, g := newGuest(t, "initramfs-tools", "gzip", vmwareImage())
	tree.Put("boot/config-"+version, []byte("CONFIG_VIRTIO=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_SCSI_VIRTIO=y\n# CONFIG_BLK_DEV_SD is not set\n"))
	if err := tree.Remove(modDir + "/modules.builtin"); err != nil {
		t.Fatal(err)
	}
	wantFit(t, g)
}

// TestOtherVersion: modules of another kernel are of no use to this one.
func TestOtherVersion(t *testing.T) {
	var members []cpio.Member
	for _, name := range []string{"virtio_pci", "virtio_blk", "virtio_scsi", "virtio", "virtio_ring", "scsi_mod", "sd_mod"} {
		members = append(members, cpio.File("usr/lib/modules/6.1.0-9-amd64/kernel/"+name+".ko", []byte(elf)))
	}
	_, g := newGuest(t, "initramfs-tools", "gzip", members)
	p := apply(t, g, Auto)
	wantFit(t, g)
	wantNotes(t, p, []string{"has modules of 6.1.0-9-amd64, none of " + version})
}

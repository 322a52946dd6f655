package detect_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/formats/formatstest"
)

// at is size bytes with a signature somewhere.
func at(size, off int, sig string) []byte {
	b := make([]byte, size)
	copy(b[off:], sig)
	return b
}

func zipped(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("disk.raw")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(at(4096, 510, "\x55\xaa")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), make([]byte, 512-b.Len()%512)...)
}

func TestRawOrNot(t *testing.T) {
	for _, c := range []struct {
		what, name string
		b          []byte
		want       error
	}{
		{"MBR", "x", at(1<<20, 510, "\x55\xaa"), nil},
		{"GPT on 4096-byte sectors", "x", at(1<<20, 4096, "EFI PART"), nil},
		{"ext4 without partitions", "x", at(1<<20, 1080, "\x53\xef"), nil},
		{"btrfs", "x", at(1<<20, 0x10040, "_BHRfS_M"), nil},
		{"blank, called a disk", "new.raw", make([]byte, 1<<20), nil},
		{"blank, called a disk, in capitals", "NEW.IMG", make([]byte, 1<<20), nil},
		{"blank, called nothing", "new", make([]byte, 1<<20), formats.ErrFormat},
		{"called a disk, not in sectors", "new.raw", make([]byte, 1000), formats.ErrFormat},
		{"text called a disk", "notes.img", bytes.Repeat([]byte("text\n"), 512), formats.ErrFormat},
		{"text", "notes.txt", []byte("hello\n"), formats.ErrFormat},
		{"zip called a disk", "disk.raw", zipped(t), formats.ErrFormat},
		{"tar with a boot signature in it", "guest.ova", append(at(510, 257, "ustar"), "\x55\xaa"...), formats.ErrFormat},
		{"empty", "disk.raw", nil, detect.ErrEmpty},
		{"empty", "disk.raw", nil, formats.ErrFormat},
		{"one byte", "x", []byte{0}, formats.ErrFormat},
		{"flat extent of a split disk", "web-f001.vmdk", at(1<<20, 510, "\x55\xaa"), formats.ErrPart},
		{"flat extent of a whole disk", "web-flat.vmdk", at(1<<20, 510, "\x55\xaa"), nil},
		{"called nearly like an extent", "web-f1.vmdk", at(1<<20, 510, "\x55\xaa"), nil},
		{"seSparse delta", "web-000001-sesparse.vmdk", at(1<<20, 0, "\xbe\xba\xfe\xca\x00\x00\x00\x00"), formats.ErrPart},
		{"COWD delta", "web-000001-delta.vmdk", at(1<<20, 0, "COWD\x01"), formats.ErrPart},
		{"a program for many Macs", "x", at(1<<20, 0, "\xbe\xba\xfe\xca\x02\x00\x00\x00"), formats.ErrFormat},
		{"QED", "x.qed", at(1<<20, 0, "QED\x00"), formats.ErrUnsupported},
		{"nothing but the signature of VHDX", "x.img", at(1<<20, 0, "vhdxfile"), formats.ErrCorrupt},
	} {
		t.Run(c.what, func(t *testing.T) {
			img, err := detect.Open(formatstest.File(c.name, c.b), nil)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v; want %v", err, c.want)
			}
			if (img == nil) != (err != nil) {
				t.Errorf("image %v with error %v", img, err)
			}
			if err == nil && img.Info().Format != "raw" {
				t.Errorf("format %s", img.Info().Format)
			}
		})
	}
}

func TestOpenAs(t *testing.T) {
	blank := formatstest.File("x", make([]byte, 1000))
	if img, err := detect.OpenAs("raw", blank, nil); err != nil || img.Size() != 1000 {
		t.Errorf("raw by order: %v", err)
	}
	if _, err := detect.OpenAs("qcow2", blank, nil); !errors.Is(err, formats.ErrFormat) {
		t.Errorf("qcow2 by order: %v", err)
	}
	if _, err := detect.OpenAs("floppy", blank, nil); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("unknown format: %v", err)
	}
}

// What QEMU and mkfs make is found for what it is.
func TestRealImages(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ want, script string }{
		{"qcow2", `qemu-img create -q -f qcow2 "$1" 1M`},
		{"vmdk", `qemu-img create -q -f vmdk "$1" 1M`},
		{"vmdk", `qemu-img create -q -f vmdk -o subformat=streamOptimized "$1" 1M`},
		{"raw", `truncate -s 8M "$1" && mkfs.ext4 -q "$1"`},
		{"raw", `truncate -s 8M "$1" && echo 2048, | sfdisk -q "$1"`},
		{"raw", `truncate -s 8M "$1" && mkswap -q "$1"`},
		{"vhdx", `qemu-img create -q -f vhdx "$1" 1M`},
		{"vhd", `qemu-img create -q -f vpc "$1" 1M`},
		{"vhd", `qemu-img create -q -f vpc -o subformat=fixed "$1" 1M`},
		{"vdi", `qemu-img create -q -f vdi "$1" 1M`},
	} {
		path := filepath.Join(dir, "image")
		os.Remove(path)
		if out, err := exec.Command("sh", "-c", c.script, "sh", path).CombinedOutput(); err != nil {
			t.Skipf("%s: %v\n%s", c.script, err, out)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		img, err := detect.Open(formatstest.File("image", b), nil)
		switch {
		case err == nil && img.Info().Format != c.want:
			t.Errorf("%s: found %s", c.script, img.Info().Format)
		case err != nil && !(errors.Is(err, formats.ErrUnsupported) && strings.Contains(err.Error(), c.want+" ")):
			t.Errorf("%s: %v", c.script, err)
		}
	}
}

// Whatever the bytes: an error of ours, or a disk that keeps the contract.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("QFI\xfb\x00\x00\x00\x03"))
	f.Add([]byte("KDMV\x01\x00\x00\x00"))
	f.Add([]byte("# Disk DescriptorFile\nRW 1 ZERO\n"))
	f.Add(at(1024, 510, "\x55\xaa"))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := detect.Open(formatstest.File("fuzz", b), nil)
		if err != nil {
			return
		}
		if err := formatstest.Every(img, 1<<20); errors.Is(err, formatstest.ErrBroken) {
			t.Error(err)
		}
	})
}

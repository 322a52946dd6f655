package chain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
)

// fromWindows unpacks a disk and the one over it, which Windows made.
func fromWindows(t *testing.T, dir, ext string) (parent, top string) {
	t.Helper()
	return formatstest.SampleIn(t, dir, "disks/ntfs-parent."+ext+".zst"), formatstest.SampleIn(t, dir, "disks/ntfs-differential."+ext+".zst")
}

// partition writes the only partition of the disk to a file.
func partition(t *testing.T, path string) string {
	t.Helper()
	b := make([]byte, 6016*512)
	if _, err := mustOpen(t, path, Policy{}).ReadAt(b, 128*512); err != nil {
		t.Fatal(err)
	}
	out := path + ".ntfs"
	write(t, out, string(b))
	return out
}

// A differencing VHDX, which QEMU 7.2 refuses. The same was done to a VHD on the
// same day: the NTFS on both holds a text and a folder with files, of which
// nothing is in the parents.
func TestVHDXFromWindows(t *testing.T) {
	need(t, "ntfscat", "ntfs-3g")
	dir := t.TempDir()
	parent, top := fromWindows(t, dir, "vhdx")
	formatstest.Disk(t, mustOpen(t, top, Policy{}), nil)
	if n := len(mustOpen(t, top, Policy{}).Images()); n != 2 {
		t.Fatalf("%d images", n)
	}
	_, vhd := fromWindows(t, dir, "vhd")
	for _, file := range []string{"passwords.txt", "a_directory/a_file", "a_directory/another_file"} {
		var got [2][]byte
		for i, image := range []string{top, vhd} {
			out, err := exec.Command("ntfscat", "-f", partition(t, image), file).Output()
			if err != nil {
				t.Fatalf("%s of %s: %v", file, image, err)
			}
			got[i] = out
		}
		if len(got[0]) == 0 || !bytes.Equal(got[0], got[1]) {
			t.Errorf("%s: %q, in the VHD %q", file, got[0], got[1])
		}
		if out, err := exec.Command("ntfscat", "-f", partition(t, parent), file).Output(); err == nil {
			t.Errorf("%s is in the parent: %q", file, out)
		}
	}
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(top, Policy{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the parent: %v", err)
	}
}

// A child knows its parent by one of two GUIDs: while it is merged into it, the
// parent has the one or the other.
func TestVHDXLinkage(t *testing.T) {
	const (
		linkage = "{7584f8fb-36d3-4091-afb5-b1afe587bfa8}"
		other   = "{11111111-2222-3333-4444-555555555555}"
		none    = "{00000000-0000-0000-0000-000000000000}"
	)
	dir := t.TempDir()
	parent, top := fromWindows(t, dir, "vhdx")
	good, err := os.ReadFile(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name          string
		first, second string
		err           error
	}{
		{"as it is", linkage, none, nil},
		{"the second one", other, linkage, nil},
		{"neither", other, other, ErrWrongParent},
		{"none and another", other, none, ErrWrongParent},
	} {
		b := replaceUTF16(t, good, linkage, c.first)
		write(t, top, string(replaceUTF16(t, b, none, c.second)))
		chain, err := Open(top, Policy{})
		if !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.err)
		}
		if err == nil {
			chain.Close()
		}
	}
	// A parent that was written to since has another GUID.
	write(t, top, string(good))
	b, err := os.ReadFile(parent)
	if err != nil {
		t.Fatal(err)
	}
	was := []byte{0xfb, 0xf8, 0x84, 0x75, 0xd3, 0x36}
	if bytes.Count(b, was) != 2 {
		t.Fatal("the parent's GUID is not in its headers")
	}
	clear(b[64<<10 : 68<<10]) // of which one is enough
	at := bytes.Index(b, was)
	b[at]++
	header := b[128<<10 : 132<<10]
	clear(header[4:8])
	binary.LittleEndian.PutUint32(header[4:], crc32.Checksum(header, crc32.MakeTable(crc32.Castagnoli)))
	write(t, parent, string(b))
	if _, err := Open(top, Policy{}); !errors.Is(err, ErrWrongParent) {
		t.Errorf("changed parent: %v", err)
	}
	// Under a name that Hyper-V gives snapshots it is the same format.
	if err := os.Rename(top, filepath.Join(dir, "x.avhdx")); err != nil {
		t.Fatal(err)
	}
	parent, _ = fromWindows(t, dir, "vhdx")
	if c := mustOpen(t, filepath.Join(dir, "x.avhdx"), Policy{}); c.Images()[1].Path != parent || c.Images()[0].Info.Format != "vhdx" {
		t.Errorf("%+v", c.Images())
	}
	// What stands where the parent should be has to be a VHDX.
	write(t, parent, string(make([]byte, 4<<20)))
	if _, err := Open(filepath.Join(dir, "x.avhdx"), Policy{}); !errors.Is(err, formats.ErrFormat) {
		t.Errorf("raw parent: %v", err)
	}
}

// replaceUTF16 replaces a text by another one of its length.
func replaceUTF16(t *testing.T, b []byte, from, to string) []byte {
	t.Helper()
	encode := func(s string) (out []byte) {
		for _, u := range utf16.Encode([]rune(s)) {
			out = binary.LittleEndian.AppendUint16(out, u)
		}
		return out
	}
	if n := bytes.Count(b, encode(from)); n != 1 || len(from) != len(to) {
		t.Fatalf("%q is there %d times", from, n)
	}
	return bytes.Replace(b, encode(from), encode(to), 1)
}

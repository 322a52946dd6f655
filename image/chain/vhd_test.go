package chain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hyper2kvm/formats/formatstest"
)

// combined puts a differencing VHD over its fixed parent by hand, from the
// structures as their specification has them: footer, dynamic header, block
// allocation table, and a bitmap in front of each block. own counts the sectors
// that the child has.
func combined(t *testing.T, child, parent []byte) (disk []byte, own int) {
	t.Helper()
	be := binary.BigEndian
	if string(child[:8]) != "conectix" || be.Uint32(child[60:]) != 4 {
		t.Fatal("the child is no differencing VHD")
	}
	size := int(be.Uint64(child[48:])) // current size
	header := child[be.Uint64(child[16:]):]
	table, entries, block := int(be.Uint64(header[16:])), int(be.Uint32(header[28:])), int(be.Uint32(header[32:]))
	disk = bytes.Clone(parent[:size])
	bitmap := (block/512/8 + 511) / 512 * 512
	for i := range entries {
		at := int(be.Uint32(child[table+i*4:]))
		if at == 0xffffffff {
			continue
		}
		for s := range block / 512 {
			guest := i*block + s*512
			if guest >= size || child[at*512+s/8]&(0x80>>(s%8)) == 0 {
				continue
			}
			copy(disk[guest:guest+512], child[at*512+bitmap+s*512:])
			own++
		}
	}
	return disk, own
}

// A child of Windows over its parent, byte for byte. QEMU cannot be asked: it
// takes the child alone, and what the parent has comes out as zeroes.
func TestVHDFromWindowsByHand(t *testing.T) {
	dir := t.TempDir()
	base := formatstest.SampleIn(t, dir, "disks/ntfs-parent.vhd.zst")
	top := formatstest.SampleIn(t, dir, "disks/ntfs-differential.vhd.zst")
	parent, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	child, err := os.ReadFile(top)
	if err != nil {
		t.Fatal(err)
	}
	want, own := combined(t, child, parent)
	c := mustOpen(t, top, Policy{})
	formatstest.Disk(t, c, bytes.NewReader(want))
	got := make([]byte, c.Size())
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the disk is not child over parent (%v)", err)
	}
	if own == 0 || bytes.Equal(got, parent[:len(got)]) {
		t.Errorf("the child has %d sectors: nothing was proven", own)
	}
	zeroes := 0
	alone := flatten(t, dir, "vpc", filepath.Base(top))
	for s := 0; s < len(want); s += 512 {
		if !bytes.Equal(want[s:s+512], alone[s:s+512]) {
			zeroes++
		}
	}
	if zeroes == 0 {
		t.Error("QEMU reads the same: it can be asked now")
	}
	t.Logf("%d sectors of the child, %d that QEMU gets wrong", own, zeroes)
}

// A parent with another id is not the one, however much alike.
func TestVHDOverAnotherParent(t *testing.T) {
	dir := t.TempDir()
	base := formatstest.SampleIn(t, dir, "disks/ntfs-parent.vhd.zst")
	top := formatstest.SampleIn(t, dir, "disks/ntfs-differential.vhd.zst")
	b, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	foot := b[len(b)-512:]
	foot[68]++
	binary.BigEndian.PutUint32(foot[64:], binary.BigEndian.Uint32(foot[64:])-1) // the checksum is the complement of a sum
	if err := os.WriteFile(base, b, 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, base, Policy{})
	if _, err := Open(top, Policy{}); !errors.Is(err, ErrWrongParent) {
		t.Errorf("got %v", err)
	}
}

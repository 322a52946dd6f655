package vmdk_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vmdk"
)

var _ formats.Checker = (*vmdk.Image)(nil)

// outside is whether qemu-img check finds a grain after the end of the file; it
// looks for nothing else.
func outside(t *testing.T, path string) bool {
	t.Helper()
	out, err := exec.Command("qemu-img", "check", "-f", "vmdk", path).CombinedOutput()
	found := bytes.Contains(out, []byte("points after EOF"))
	if found != (err != nil) {
		t.Fatalf("qemu-img check: %v\n%s", err, out)
	}
	return found
}

// convertedTo is the pattern as QEMU writes it.
func convertedTo(t *testing.T, variant string, size int) (path string, want []byte) {
	t.Helper()
	needQemuImg(t)
	dir := t.TempDir()
	want = pattern(size)
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "x.vmdk")
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+variant, raw, out)
	return out, want
}

// Nothing is found in what QEMU, VMware, VirtualBox and we write, nor in the
// deltas of ESX.
func TestCheckOfWholeImages(t *testing.T) {
	none := func(t *testing.T, img *vmdk.Image) {
		t.Helper()
		if list := formatstest.Problems(t, img); len(list) > 0 {
			t.Errorf("%+v", list)
		}
	}
	for _, variant := range []string{"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"} {
		t.Run(variant, func(t *testing.T) {
			for _, size := range []int{512, 34<<20 + 512} {
				path, _ := convertedTo(t, variant, size)
				none(t, mustOpen(t, path))
			}
			if strings.HasPrefix(variant, "mono") && !strings.HasSuffix(variant, "Flat") || variant == "streamOptimized" {
				img, err := vmdk.Open(formatstest.File("x", small(t, variant)), nil)
				if err != nil {
					t.Fatal(err)
				}
				none(t, img)
			}
		})
	}
	t.Run("deltas", func(t *testing.T) {
		const size = 40<<20 + 512
		for kind, b := range map[string][]byte{
			"seSparse": seSparse(size, some(size, 4096, true), 3), "vmfsSparse": cowd(size, some(size, 512, false)),
		} {
			s := over(t, size, nil, 512, kind, b)
			none(t, mustOpen(t, s.top))
		}
	})
	for _, name := range []string{"workstation4.vmdk.zst", "vmware-monolithicSparse.vmdk.zst", "vmware-streamOptimized.vmdk.zst",
		"vbox-stream.vmdk.zst", "iotest-version3.vmdk.bz2"} {
		t.Run(name, func(t *testing.T) { none(t, mustOpen(t, formatstest.Sample(t, "disks/"+name))) })
	}
}

// damage is a sparse file with the means to break it.
type damage []byte

func (d damage) sectors(at int64) int64     { return int64(binary.LittleEndian.Uint32(d[at:])) * 512 }
func (d damage) put(at int64, sector int64) { binary.LittleEndian.PutUint32(d[at:], uint32(sector)) }
func (d damage) directory() int64           { return d.sectors(56) }
func (d damage) spare() int64               { return d.sectors(48) }
func (d damage) table() int64               { return d.sectors(d.directory()) }
func (d damage) both(entry int64, to int64) {
	d.put(d.table()+entry*4, to)
	d.put(d.sectors(d.spare())+entry*4, to)
}

func TestCheckOfDamage(t *testing.T) {
	for _, c := range []struct {
		name    string
		variant string
		change  func(d damage)
		kind    string
		count   int // problems in all
		harm    bool
		mended  bool
	}{
		{"a grain outside", "monolithicSparse", func(d damage) { d.both(0, 1<<30) }, formats.BadReference, 2, true, false},
		{"a grain used twice", "monolithicSparse", func(d damage) { d.both(0, int64(binary.LittleEndian.Uint32(d[d.table()+4:]))) }, formats.Overlap, 2, true, false},
		{"a grain in the descriptor", "monolithicSparse", func(d damage) { d.both(0, 2) }, formats.Overlap, 2, true, false},
		{"a grain in a table", "monolithicSparse", func(d damage) { d.both(0, d.table()/512) }, formats.Overlap, 2, true, false},
		{"a lost grain", "monolithicSparse", func(d damage) { d.both(0, 0) }, formats.Leak, 1, false, false},
		{"a redundant table that differs", "monolithicSparse", func(d damage) { d.put(d.sectors(d.spare())+8, 1<<30) }, formats.BadMetadata, 1, false, true},
		{"a table that is lost", "monolithicSparse", func(d damage) { clear(d[d.table() : d.table()+2048]) }, formats.BadMetadata, 2, true, false},
		{"an entry of a table that is lost", "monolithicSparse", func(d damage) { d.put(d.table()+4, 0) }, formats.BadMetadata, 2, true, false},
		{"a redundant table without an entry", "monolithicSparse", func(d damage) { d.put(d.sectors(d.spare())+4, 0) }, formats.BadMetadata, 1, false, true},
		{"a redundant table that is a grain", "monolithicSparse", func(d damage) { d.put(d.spare(), d.sectors(d.table())/512) }, formats.Overlap, 2, true, false},
		{"a redundant table outside", "monolithicSparse", func(d damage) { d.put(d.spare(), 1<<30) }, formats.BadReference, 1, false, false},
		{"no redundant table", "monolithicSparse", func(d damage) { d.put(d.spare(), 0) }, formats.BadMetadata, 1, false, false},
		{"the redundant directory outside", "monolithicSparse", func(d damage) { d.put(48, 1<<30) }, formats.BadReference, 1, false, false},
		{"the directory damaged", "monolithicSparse", func(d damage) { d.put(d.directory(), 1<<30) }, formats.BadMetadata, 1, false, false},
		{"a compressed grain outside", "streamOptimized", func(d damage) { d.put(d.table(), 1<<30) }, formats.BadReference, 2, true, false},
		{"a compressed grain of another place", "streamOptimized", func(d damage) { d.put(d.table(), int64(binary.LittleEndian.Uint32(d[d.table()+4:]))) }, formats.BadReference, 2, true, false},
		{"a compressed grain of absurd size", "streamOptimized", func(d damage) { d.put(d.sectors(d.table())+8, 1<<30) }, formats.BadReference, 1, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, want := convertedTo(t, c.variant, 8<<20)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c.change(b)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			img := mustOpen(t, path)
			list := formatstest.Problems(t, img)
			found, harm, after := false, false, false
			for _, p := range list {
				found = found || p.Kind == c.kind
				harm = harm || !p.Harmless
				after = after || strings.HasPrefix(p.Message, "grain 0 ") && strings.Contains(p.Message, "outside of the file")
			}
			if !found || harm != c.harm || len(list) < 1 || len(list) > c.count {
				t.Errorf("found %+v; want %s, harm %v", list, c.kind, c.harm)
			}
			if qemu := outside(t, path); qemu != after {
				t.Errorf("a grain after the end: %v, QEMU says %v", after, qemu)
			}
			if !harm && c.kind != formats.Leak {
				formatstest.Disk(t, img, bytes.NewReader(want))
			}
			for _, p := range list {
				for _, x := range p.Patches {
					copy(b[x.Offset:], x.Bytes)
				}
			}
			fixed, err := vmdk.Open(formatstest.File("x", b), nil)
			if err != nil {
				t.Fatal(err)
			}
			if left := formatstest.Problems(t, fixed); len(left) > len(list) || c.mended && len(left) > 0 || !c.mended && len(left) != len(list) {
				t.Errorf("after the repair: %+v", left)
			}
		})
	}
}

// Damage in one extent of many is told with the name of its file, and cannot be
// mended in the descriptor.
func TestCheckOfExtents(t *testing.T) {
	path, _ := convertedTo(t, "twoGbMaxExtentSparse", 8<<20)
	extent := strings.TrimSuffix(path, ".vmdk") + "-s001.vmdk"
	b, err := os.ReadFile(extent)
	if err != nil {
		t.Fatal(err)
	}
	d := damage(b)
	d.put(d.sectors(d.spare())+8, 77)
	if err := os.WriteFile(extent, b, 0o600); err != nil {
		t.Fatal(err)
	}
	list := formatstest.Problems(t, mustOpen(t, path))
	if len(list) != 1 || len(list[0].Patches) > 0 || !strings.Contains(list[0].Message, "x-s001.vmdk") {
		t.Errorf("%+v", list)
	}
}

func TestCheckOfDamagedDelta(t *testing.T) {
	const size = 40 << 20
	for _, c := range []struct {
		name  string
		off   int64
		value uint64
		kind  string
	}{
		{"grain outside", 16*512 + 2*64*512, 3<<60 | 1<<40, formats.BadReference},
		{"entry of no type", 16*512 + 2*64*512, 5 << 60, formats.BadReference},
		{"grain used twice", 16*512 + 2*64*512, 0, formats.Overlap},
		{"table used twice", 4*512 + 8, 1<<60 | 2, formats.Overlap},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := seSparse(size, some(size, 4096, true), 0)
			if c.value == 0 {
				c.value = binary.LittleEndian.Uint64(b[c.off+8:])
			}
			words(b, c.off, c.value)
			s := over(t, size, nil, 4096, "seSparse", b)
			list := formatstest.Problems(t, mustOpen(t, s.top))
			if len(list) == 0 || list[0].Kind != c.kind || list[0].Harmless {
				t.Errorf("found %+v; want %s", list, c.kind)
			}
		})
	}
}

func TestCheckEnds(t *testing.T) {
	path, _ := convertedTo(t, "monolithicSparse", 8<<20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := mustOpen(t, path).Check(ctx, func(formats.Problem) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damage(b).both(0, 1<<30)
	img, err := vmdk.Open(formatstest.File("x", b), nil)
	if err != nil {
		t.Fatal(err)
	}
	enough, n := errors.New("enough"), 0
	if err := img.Check(t.Context(), func(formats.Problem) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Error(fmt.Sprint(n, " problems"), err)
	}
}

package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/qcow2"
)

var _ formats.Checker = (*qcow2.Image)(nil)

// verdict is what qemu-img check says of an image.
type verdict struct {
	Leaks       int `json:"leaks"`
	Corruptions int `json:"corruptions"`
	Errors      int `json:"check-errors"`
}

func qemuCheck(t *testing.T, path string) verdict {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img (package qemu-utils)")
	}
	cmd := exec.Command("qemu-img", "check", "--output", "json", "-f", "qcow2", filepath.Base(path))
	cmd.Dir = filepath.Dir(path)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if len(out) == 0 {
		return verdict{Errors: 1} // it does not even open it
	}
	var v verdict
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return v
}

// made runs a script that makes x.qcow2 in a folder.
func made(t *testing.T, script string) string {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img (package qemu-utils)")
	}
	dir := t.TempDir()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return filepath.Join(dir, "x.qcow2")
}

// filled makes an image of 4 MiB with data, compressed data and zeroes.
func filled(t *testing.T, options string) string {
	t.Helper()
	return made(t, `qemu-img create -q -f qcow2 -o "`+options+`" x.qcow2 4M
		qemu-io -c "write -P 1 0 1M" -c "write -P 2 3M 70k" x.qcow2 >log
		case "`+options+`" in
		*data_file*|*2M*|*preallocation*) ;; # QEMU cannot
		*) qemu-io -c "write -c -P 3 2M 128k" x.qcow2 >log ;;
		esac
		case "`+options+`" in
		*0.10*) ;;
		*) qemu-io -c "write -z 512k 64k" x.qcow2 >log ;;
		esac`)
}

// Nothing is found in what QEMU writes, whatever is in it.
func TestCheckOfWholeImages(t *testing.T) {
	for _, options := range []string{"compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=2M", "refcount_bits=1", "refcount_bits=2",
		"refcount_bits=8", "refcount_bits=32", "refcount_bits=64", "extended_l2=on", "preallocation=metadata", "compression_type=zstd",
		"data_file=data", "data_file=data,data_file_raw=on", "lazy_refcounts=on"} {
		t.Run(options, func(t *testing.T) {
			path := filled(t, options)
			if v := qemuCheck(t, path); v != (verdict{}) {
				t.Fatalf("QEMU says %+v", v)
			}
			if list := formatstest.Problems(t, mustOpen(t, path)); len(list) > 0 {
				t.Errorf("%+v", list)
			}
		})
	}
	t.Run("snapshots and bitmaps", func(t *testing.T) {
		path := filled(t, "compat=1.1")
		for i := range 3 {
			run(t, "qemu-img", "snapshot", "-c", fmt.Sprint("number ", i), path)
			run(t, "qemu-io", "-c", fmt.Sprintf("write -P 9 %dk 64k", i*128), path)
			run(t, "qemu-img", "bitmap", "--add", path, fmt.Sprint("b", i))
		}
		run(t, "qemu-img", "snapshot", "-d", "number 1", path)
		run(t, "qemu-io", "-c", "write -P 9 2M 300k", path)
		if list := formatstest.Problems(t, mustOpen(t, path)); len(list) > 0 {
			t.Errorf("%+v", list)
		}
	})
}

// damage is an image with the means to break it.
type damage struct {
	b       []byte
	cluster int64
}

func (d damage) word(at int64) uint64   { return binary.BigEndian.Uint64(d.b[at:]) }
func (d damage) put(at int64, v uint64) { binary.BigEndian.PutUint64(d.b[at:], v) }
func (d damage) l1() int64              { return int64(d.word(40)) }
func (d damage) l2() int64              { return int64(d.word(d.l1()) & 0x00fffffffffffe00) }
func (d damage) block() int64           { return int64(d.word(int64(d.word(48)))) }

// refcount is the place of the 16-bit refcount of what entry refers to.
func (d damage) refcount(entry int64) int64 {
	return d.block() + int64(d.word(entry)&0x00fffffffffffe00)/d.cluster*2
}

// What is broken on purpose is found, as often as QEMU finds it, and what is
// mended leaves QEMU with nothing to say.
func TestCheckOfDamage(t *testing.T) {
	for _, c := range []struct {
		name    string
		options string
		change  func(d damage)
		kind    string
		mended  bool // nothing is left after the patches
		more    bool // QEMU sees more in it, or counts it in another way
	}{
		{"a lost cluster", "", func(d damage) { d.put(d.l2()+8, 0) }, formats.Leak, true, false},
		{"a lost L2 table", "", func(d damage) { d.put(d.l1(), 0) }, formats.Leak, true, false},
		{"lost clusters whose refcounts share a byte", "refcount_bits=1", func(d damage) { clear(d.b[d.l2()+8 : d.l2()+72]) }, formats.Leak, true, false},
		{"lost clusters, refcounts of 64 bits", "refcount_bits=64", func(d damage) { clear(d.b[d.l2()+8 : d.l2()+72]) }, formats.Leak, true, false},
		{"a lost part of compressed data", "", func(d damage) { d.put(d.l2()+32*8, 0) }, formats.Leak, true, false},
		{"a refcount too high", "", func(d damage) { d.b[d.refcount(d.l2()+8)+1] = 5 }, formats.Leak, true, true},
		{"a refcount of none", "", func(d damage) { d.b[d.refcount(d.l2()+8)+1] = 0 }, formats.BadMetadata, true, true},
		{"no refcount block", "", func(d damage) { d.put(int64(d.word(48)), 0) }, formats.BadMetadata, false, true},
		{"a cluster used twice", "", func(d damage) { d.put(d.l2()+16, d.word(d.l2()+8)) }, formats.Overlap, false, false},
		{"a cluster that is the header", "", func(d damage) { d.put(d.l2()+16, 1<<63|uint64(d.l1())) }, formats.Overlap, false, true},
		{"a cluster outside", "", func(d damage) { d.put(d.l2()+8, 1<<63|1<<40) }, formats.BadReference, false, true},
		{"a cluster on no border", "", func(d damage) { d.put(d.l2()+8, d.word(d.l2()+8)+512) }, formats.BadReference, false, true},
		{"compressed data outside", "", func(d damage) { d.put(d.l2()+32*8, 1<<62|1<<45) }, formats.BadReference, false, false},
		{"reserved bits", "", func(d damage) { d.put(d.l2()+8, d.word(d.l2()+8)|1<<56) }, formats.BadMetadata, false, false},
		{"a mark missing", "", func(d damage) { d.put(d.l2()+8, d.word(d.l2()+8)&^(1<<63)) }, formats.BadMetadata, true, false},
		{"a mark missing, L1", "", func(d damage) { d.put(d.l1(), d.word(d.l1())&^(1<<63)) }, formats.BadMetadata, true, false},
		{"a refcount block outside", "", func(d damage) { d.put(int64(d.word(48)), 1<<40) }, formats.BadReference, false, true},
		{"the refcount table outside", "", func(d damage) { d.put(48, 1<<40) }, formats.BadReference, false, true},
		{"a huge refcount table", "", func(d damage) { d.b[56] = 0xff }, formats.BadReference, false, true},
		{"a part of two minds", "extended_l2=on", func(d damage) { d.put(d.l2()+8, 3|1<<32) }, formats.BadMetadata, false, false},
		{"not closed", "lazy_refcounts=on", func(d damage) { d.b[79] |= 1 }, formats.BadMetadata, true, true},
		{"marked corrupt", "", func(d damage) { d.b[79] |= 2 }, formats.BadMetadata, true, true},
		{"marked corrupt, not closed, and a leak", "", func(d damage) { d.b[79] |= 3; d.put(d.l2()+8, 0) }, formats.Leak, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filled(t, strings.TrimPrefix(c.options+",compat=1.1", ","))
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			d := damage{bytes.Clone(good), 64 << 10}
			c.change(d)
			if err := os.WriteFile(path, d.b, 0o600); err != nil {
				t.Fatal(err)
			}
			list := formatstest.Problems(t, mustOpen(t, path))
			found, leaks := false, 0
			for _, p := range list {
				found = found || p.Kind == c.kind
				if p.Kind == formats.Leak {
					leaks++
				}
				if p.Message == "" || p.Offset < 0 || p.Kind == formats.Leak && !p.Harmless {
					t.Errorf("%+v", p)
				}
			}
			v := qemuCheck(t, path)
			if !found || len(list) == 0 {
				t.Fatalf("found %+v; want %s; QEMU says %+v", list, c.kind, v)
			}
			if (v.Corruptions > 0 && v.Leaks == 0 || v.Errors > 0) && len(list) == leaks || v.Leaks > 0 && leaks == 0 && v.Corruptions == 0 {
				t.Errorf("QEMU says %+v, found %+v", v, list)
			}
			if !c.more && (leaks != v.Leaks || len(list)-leaks != v.Corruptions) {
				t.Errorf("found %d leaks and %d others, QEMU says %+v: %+v", leaks, len(list)-leaks, v, list)
			}
			if err := os.WriteFile(path, apply(d.b, list), 0o600); err != nil {
				t.Fatal(err)
			}
			after, left := qemuCheck(t, path), formatstest.Problems(t, mustOpen(t, path))
			if c.mended && (after != (verdict{}) || len(left) > 0) {
				t.Errorf("after the repair QEMU says %+v, we %+v", after, left)
			}
			if after.Corruptions > v.Corruptions || after.Leaks > v.Leaks || len(left) > len(list) {
				t.Errorf("the repair made it worse: %+v, %+v", after, left)
			}
		})
	}
}

// apply writes the patches of problems into a copy of an image.
func apply(b []byte, list []formats.Problem) []byte {
	b = bytes.Clone(b)
	for _, p := range list {
		for _, x := range p.Patches {
			copy(b[x.Offset:], x.Bytes)
		}
	}
	return b
}

// Damage to what only snapshots and bitmaps have is found as well.
func TestCheckOfDamagedExtras(t *testing.T) {
	path := filled(t, "compat=1.1")
	run(t, "qemu-img", "snapshot", "-c", "before", path)
	run(t, "qemu-io", "-c", "write -P 7 128k 64k", path)
	run(t, "qemu-img", "bitmap", "--add", path, "nightly")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	snapshots := int64(binary.BigEndian.Uint64(good[64:]))
	ext := int64(bytes.Index(good[:64<<10], []byte{0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24}))
	bitmaps := int64(binary.BigEndian.Uint64(good[ext+24:]))
	for _, c := range []struct {
		name   string
		change func(d damage)
		kind   string
	}{
		{"L1 table of a snapshot outside", func(d damage) { d.put(snapshots, 1<<40) }, formats.BadReference},
		{"L1 table of a snapshot is the active one", func(d damage) { d.put(snapshots, uint64(d.l1())) }, formats.Overlap},
		{"huge L1 table of a snapshot", func(d damage) { d.b[snapshots+8] = 0xff }, formats.BadReference},
		{"L1 table of a snapshot longer than the file", func(d damage) { d.b[snapshots+9] = 0x3f }, formats.BadReference},
		{"snapshots outside", func(d damage) { d.put(64, 1<<40) }, formats.BadReference},
		{"a snapshot's entry of absurd size", func(d damage) { d.b[snapshots+36] = 0xff }, formats.BadReference},
		{"more snapshots than there are", func(d damage) { d.b[62] = 0xff }, formats.BadReference},
		{"bitmaps outside", func(d damage) { d.put(ext+24, 1<<40) }, formats.BadReference},
		{"a directory of bitmaps of absurd size", func(d damage) { d.put(ext+16, 1<<40) }, formats.BadReference},
		{"the table of a bitmap outside", func(d damage) { d.put(bitmaps, 1<<40) }, formats.BadReference},
		{"the table of a bitmap is a cluster of the disk", func(d damage) { d.put(bitmaps, d.word(d.l2()+8)&0x00fffffffffffe00) }, formats.Overlap},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := damage{bytes.Clone(good), 64 << 10}
			c.change(d)
			img, err := qcow2.Open(formatstest.File("x", d.b), nil)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, p := range formatstest.Problems(t, img) {
				found = found || p.Kind == c.kind
				if p.Kind == formats.Leak && len(p.Patches) > 0 {
					t.Errorf("what may be the snapshot's would be given away: %+v", p)
				}
			}
			if !found {
				t.Errorf("found %+v; want %s", formatstest.Problems(t, img), c.kind)
			}
			if err := formatstest.Every(img, 8<<20); err != nil {
				t.Errorf("the disk itself: %v", err)
			}
		})
	}
}

// A repair touches no byte that the guest sees, nor what a snapshot has.
func TestRepairKeepsContent(t *testing.T) {
	path := filled(t, "compat=1.1")
	run(t, "qemu-img", "snapshot", "-c", "before", path)
	run(t, "qemu-io", "-c", "write -P 7 128k 64k", path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := damage{b, 64 << 10}
	d.put(d.l2()+8, d.word(d.l2()+8)|1<<63)         // shared with the snapshot, and marked as not shared
	d.b[d.refcount(d.l2()+16)+1] = 0                // written after the snapshot, and taken for free
	d.put(d.l2()+24, d.word(d.l2()+24)&^(0xff<<56)) // shared: it has no mark
	if err := os.WriteFile(path, d.b, 0o600); err != nil {
		t.Fatal(err)
	}
	before := mustOpen(t, path)
	want := make([]byte, before.Size())
	if _, err := before.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	list := formatstest.Problems(t, before)
	if len(list) != 2 || list[0].Harmless || list[1].Harmless {
		t.Errorf("found %+v", list)
	}
	if v := qemuCheck(t, path); v.Corruptions == 0 {
		t.Errorf("QEMU finds nothing: %+v", v)
	}
	fixed := apply(d.b, list)
	if err := os.WriteFile(path, fixed, 0o600); err != nil {
		t.Fatal(err)
	}
	if v := qemuCheck(t, path); v != (verdict{}) {
		t.Errorf("after the repair QEMU says %+v", v)
	}
	formatstest.Disk(t, mustOpen(t, path), bytes.NewReader(want))
	run(t, "qemu-img", "snapshot", "-a", "before", path)
	run(t, "qemu-io", "-r", "-c", "read -P 1 0 512k", path)
}

// Where the guest's data lies in a table, mending that would change the data.
func TestRepairLeavesWhatOverlaps(t *testing.T) {
	path := filled(t, "compat=1.1")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(d damage){
		"data in the refcount block": func(d damage) {
			d.put(d.l2()+16, 1<<63|uint64(d.block()))
			d.b[d.refcount(d.l2()+8)+1] = 0
		},
		"data in the L2 table": func(d damage) {
			d.put(d.l2()+16, 1<<63|uint64(d.l2()))
			d.put(d.l2()+8, d.word(d.l2()+8)&^(1<<63))
		},
	} {
		d := damage{bytes.Clone(good), 64 << 10}
		change(d)
		img, err := qcow2.Open(formatstest.File("x", d.b), nil)
		if err != nil {
			t.Fatal(err)
		}
		if list := formatstest.Problems(t, img); len(list) < 2 || !slices.ContainsFunc(list, func(p formats.Problem) bool { return p.Kind == formats.Overlap }) {
			t.Errorf("%s: found %+v", name, list)
		}
		if err := repaired(t, img, d.b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Leaks are left where something else is wrong: they may be what was lost.
func TestLeaksAreLeftBesideDamage(t *testing.T) {
	path := filled(t, "compat=1.1")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := damage{b, 64 << 10}
	d.put(d.l2()+8, d.word(d.l2()+8)|1<<45) // one bit flipped: the way to a cluster is lost
	img, err := qcow2.Open(formatstest.File("x", d.b), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range formatstest.Problems(t, img) {
		if len(p.Patches) > 0 {
			t.Errorf("%+v would be mended", p)
		}
	}
}

func TestCheckEnds(t *testing.T) {
	path := filled(t, "compat=1.1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := mustOpen(t, path).Check(ctx, func(formats.Problem) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := damage{b, 64 << 10}
	d.put(d.l1(), 0)
	img, err := qcow2.Open(formatstest.File("x", d.b), nil)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	n := 0
	if err := img.Check(t.Context(), func(formats.Problem) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("after %d problems: %v", n, err)
	}
}

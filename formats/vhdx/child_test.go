package vhdx_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/guid"
	"hyper2kvm/formats/vhdx"
)

const (
	itemParent  = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
	locatorType = "b04aefb7-d19e-4a81-b789-25b8e9445913"
	linkage     = "{7584F8FB-36D3-4091-AFB5-B1AFE587BFA8}"
	linkageID   = "7584f8fb-36d3-4091-afb5-b1afe587bfa8"
)

// locator is a parent locator of keys and values.
func locator(pairs ...string) []byte {
	le := binary.LittleEndian
	b := append(guid.Bytes(uuid.MustParse(locatorType)), 0, 0, byte(len(pairs)/2), 0)
	text := len(b) + 12*len(pairs)/2
	var all []byte
	for i := 0; i < len(pairs); i += 2 {
		var at, length [2]int
		for j := range at {
			at[j] = text + len(all)
			for _, u := range utf16.Encode([]rune(pairs[i+j])) {
				all = le.AppendUint16(all, u)
			}
			length[j] = text + len(all) - at[j]
		}
		b = le.AppendUint32(le.AppendUint32(b, uint32(at[0])), uint32(at[1]))
		b = le.AppendUint16(le.AppendUint16(b, uint16(length[0])), uint16(length[1]))
	}
	return append(b, all...)
}

// child makes a differencing disk of one that we wrote: the blocks at 0 and, where
// there is one, at 4 MiB have only the sectors that has says.
func child(b []byte, sector int, loc []byte, has func(i int) bool) []byte {
	const at = 1024 // of the locator behind the other items
	b[itemsAt+4] |= 2
	b[metadataAt+10]++
	e := b[metadataAt+32+5*32:]
	copy(e, guid.Bytes(uuid.MustParse(itemParent)))
	put32(e, 16, 64<<10+at)
	put32(e, 20, uint32(len(loc)))
	put32(e, 24, 4)
	copy(b[itemsAt+at:], loc)
	ratio := 1 << 23 * sector / (2 << 20)
	put64(b, batAt+8*ratio, uint64(len(b))|6)
	bits := make([]byte, 1<<20)
	for _, block := range []int{0, 2} {
		if b[batAt+8*block] != 0 {
			b[batAt+8*block] = 7
		}
		for i := block * (2 << 20) / sector; i < (block+1)*(2<<20)/sector; i++ {
			if has(i) {
				bits[i/8] |= 1 << (i % 8)
			}
		}
	}
	return append(b, bits...)
}

func odd(i int) bool { return i%7 < 3 || i > 100 && i < 300 || i%4096 == 4000 }

func TestDifferencing(t *testing.T) {
	data := content()
	for _, sector := range []int{512, 4096} {
		b := child(written(t, vhdx.Options{Sector: int64(sector)}, data), sector,
			locator("parent_linkage", linkage, "relative_path", `.\base.vhdx`), odd)
		img := open(t, b)
		t.Run(fmt.Sprint(sector), func(t *testing.T) { formatstest.Disk(t, img, bytes.NewReader(data)) })
		if in := img.Info(); in.Variant != "differencing" || in.Parent == nil || in.Parent.Name != "base.vhdx" || in.Parent.ID != linkageID || in.Parent.OtherID != "" {
			t.Errorf("%+v, parent %+v", in, in.Parent)
		}
		if list := formatstest.Problems(t, img); len(list) > 0 {
			t.Errorf("%+v", list)
		}
		for i := range 6 << 20 / sector {
			if i*sector>>21 == 1 {
				continue
			}
			e, err := img.Extent(int64(i*sector), 1)
			if err != nil || (e.Kind == formats.Data) != odd(i) || (e.Kind == formats.Absent) == odd(i) {
				t.Fatalf("sector %d of %d bytes: %+v, %v", i, sector, e, err)
			}
		}
		for off, want := range map[int64]formats.Kind{2 << 20: formats.Absent, 6 << 20: formats.Absent, 8<<20 + 8192: formats.Data} {
			if e, err := img.Extent(off, 1); err != nil || e.Kind != want {
				t.Errorf("at %d: %+v, %v; want %v", off, e, err, want)
			}
		}
		put64(b, batAt+8, 2) // zeroes hide what the parent has
		if e, err := open(t, b).Extent(2<<20, 1); err != nil || e.Kind != formats.Zero {
			t.Errorf("zero block: %+v, %v", e, err)
		}
	}
}

// The sector bitmap of a chunk follows its blocks: with sectors of 512 bytes and
// blocks of 2 MiB that is every 4 GiB.
func TestChunks(t *testing.T) {
	out := &sparse{Memory: formatstest.NewMemory(1 << 30)}
	w, err := vhdx.NewWriter(out, 20<<30, vhdx.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, guest := range []int64{4<<30 - 2<<20, 4 << 30, 19 << 30} {
		host, _, err := w.Place(guest, 2<<20)
		if err != nil {
			t.Fatal(err)
		}
		mark := fmt.Sprintf("block at %d", guest)
		if _, err := out.WriteAt([]byte(mark), host); err != nil {
			t.Fatal(err)
		}
		index := guest>>21 + guest>>32
		entry := make([]byte, 8)
		size, err := w.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.ReadAt(entry, batAt+8*index); err != nil || binary.LittleEndian.Uint64(entry) != uint64(host)|6 {
			t.Errorf("entry %d is %x, %v", index, entry, err)
		}
		img, err := vhdx.Open(formats.File{ReaderAt: out.Ready(), Size: size}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(mark))
		if _, err := img.ReadAt(got, guest); err != nil || string(got) != mark {
			t.Errorf("at %d: %q, %v", guest, got, err)
		}
		if list := formatstest.Problems(t, img); len(list) > 0 {
			t.Errorf("%+v", list)
		}
	}
}

func TestClaims(t *testing.T) {
	good := written(t, vhdx.Options{}, content())
	other := "{00000000-0000-0000-0000-000000000001}"
	for _, c := range []struct {
		name string
		loc  []byte
		want formats.Claim
		err  error
	}{
		{"all", locator("parent_linkage", linkage, "absolute_win32_path", `C:\x\abs.vhdx`, "relative_path", `..\y\rel.vhdx`, "volume_path", `\\?\Volume{1}\vol.vhdx`,
			"parent_linkage2", "{00000000-0000-0000-0000-000000000000}"), formats.Claim{Name: "../y/rel.vhdx", ID: linkageID}, nil},
		{"volume", locator("absolute_win32_path", `C:\x\abs.vhdx`, "volume_path", `\\?\Volume{1}\vol.vhdx`, "parent_linkage", linkage), formats.Claim{Name: "vol.vhdx", ID: linkageID}, nil},
		{"absolute", locator("parent_linkage", linkage, "absolute_win32_path", `C:\x\abs.avhdx`), formats.Claim{Name: "abs.avhdx", ID: linkageID}, nil},
		{"two linkages", locator("parent_linkage", linkage, "parent_linkage2", other), formats.Claim{ID: linkageID, OtherID: other[1:37]}, nil},
		{"no linkage", locator("relative_path", "x.vhdx"), formats.Claim{}, formats.ErrCorrupt},
		{"linkage that is none", locator("parent_linkage", "x"), formats.Claim{}, formats.ErrCorrupt},
		{"cut off", locator()[:19], formats.Claim{}, formats.ErrCorrupt},
		{"too many", locator("parent_linkage", linkage)[:30], formats.Claim{}, formats.ErrCorrupt},
		{"text outside", locator("parent_linkage", linkage)[:80], formats.Claim{}, formats.ErrCorrupt},
		{"another type", append([]byte{1}, locator("parent_linkage", linkage)[1:]...), formats.Claim{}, formats.ErrUnsupported},
	} {
		img, err := vhdx.Open(formatstest.File(c.name, child(bytes.Clone(good), 512, c.loc, odd)), nil)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.err)
		}
		if err != nil {
			continue
		}
		c.want.Format = "vhdx"
		if got := *img.Info().Parent; got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if shown := fmt.Sprint(img.Info().Fields); c.want.Name != "" && !strings.Contains(shown, path.Base(c.want.Name)) || !strings.Contains(shown, c.want.OtherID) {
			t.Errorf("%s: shown are %s", c.name, shown)
		}
	}
}

func TestDamagedBitmaps(t *testing.T) {
	good := child(written(t, vhdx.Options{}, content()), 512, locator("parent_linkage", linkage), odd)
	const mapEntry = 2048 * 8
	for _, c := range []struct {
		name  string
		entry uint64
		read  error
		finds string
	}{
		{"none", 0, formats.ErrCorrupt, formats.BadReference},
		{"state that is none", dataAt | 3, formats.ErrCorrupt, formats.BadMetadata},
		{"in the header", 6, formats.ErrCorrupt, formats.BadReference},
		{"at an absurd place", 1<<63 | 6, formats.ErrCorrupt, formats.BadReference},
		{"behind the end", 1<<40 | 6, formats.ErrTruncated, formats.BadReference},
		{"over a block", dataAt | 6, nil, formats.Overlap},
	} {
		b := bytes.Clone(good)
		put64(b, batAt+mapEntry, c.entry)
		img := open(t, b)
		if _, err := img.Extent(0, 1<<20); !errors.Is(err, c.read) {
			t.Errorf("%s: %v, want %v", c.name, err, c.read)
		}
		if list := formatstest.Problems(t, img); len(list) == 0 || list[0].Kind != c.finds {
			t.Errorf("%s: %+v, want %s", c.name, list, c.finds)
		}
	}
	// A disk without parent has no bitmaps; QEMU before April 2023 left rubbish there.
	out := &sparse{Memory: formatstest.NewMemory(1 << 30)}
	w, err := vhdx.NewWriter(out, 5<<30, vhdx.Options{})
	if err != nil {
		t.Fatal(err)
	}
	size, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteAt([]byte{6}, batAt+mapEntry); err != nil {
		t.Fatal(err)
	}
	img, err := vhdx.Open(formats.File{ReaderAt: out.Ready(), Size: size}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if list := formatstest.Problems(t, img); len(list) != 1 || list[0].Kind != formats.BadMetadata || !list[0].Harmless {
		t.Errorf("%+v", list)
	}
}

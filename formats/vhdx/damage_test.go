package vhdx_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/vhdx"
)

// Where things lie in images that we write.
const (
	headerAt   = 128 << 10 // of the current header
	tableAt    = 192 << 10
	metadataAt = 2 << 20
	itemsAt    = metadataAt + 64<<10
)

// signTables signs both region tables.
func signTables(b []byte) {
	for _, at := range []int{tableAt, tableAt + 64<<10} {
		sign(b[at : at+64<<10])
	}
}

// inTables changes both region tables.
func inTables(b []byte, change func(table []byte)) {
	for _, at := range []int{tableAt, tableAt + 64<<10} {
		change(b[at:])
	}
	signTables(b)
}

func TestDamage(t *testing.T) {
	good := written(t, vhdx.Options{}, content())
	in := func(change func(b []byte)) func(b []byte) []byte {
		return func(b []byte) []byte { change(b); return b }
	}
	table := func(change func(table []byte)) func(b []byte) []byte {
		return in(func(b []byte) { inTables(b, change) })
	}
	bat := func(block int, v uint64) func(b []byte) []byte {
		return in(func(b []byte) { put64(b, batAt+block*8, v) })
	}
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		err    error
		warns  string
		finds  string // kind of problem
		mended bool
	}{
		{"not a VHDX", in(func(b []byte) { b[3]++ }), formats.ErrFormat, "", "", false},
		{"no byte too many", func(b []byte) []byte { return b[:8] }, formats.ErrTruncated, "", "", false},
		{"nearly nothing", func(b []byte) []byte { return b[:7] }, formats.ErrFormat, "", "", false},
		{"cut off in the tables", func(b []byte) []byte { return b[:300<<10] }, formats.ErrTruncated, "", "", false},
		{"cut off in the metadata", func(b []byte) []byte { return b[:2<<20+100] }, formats.ErrTruncated, "", "", false},
		{"cut off in the BAT", func(b []byte) []byte { return b[:batAt+8] }, formats.ErrTruncated, "", "", false},
		{"half of it", func(b []byte) []byte { return b[:len(b)/2] }, nil, "", formats.BadReference, false},

		{"current header", in(func(b []byte) { b[headerAt+100]++ }), nil, "header", formats.BadMetadata, true},
		{"other header", in(func(b []byte) { clear(b[64<<10 : 68<<10]) }), nil, "header", formats.BadMetadata, true},
		{"both headers", in(func(b []byte) { b[64<<10+100]++; b[headerAt+100]++ }), formats.ErrCorrupt, "", "", false},
		{"two headers, one number", in(func(b []byte) { put64(b, headerAt+8, 1); b[headerAt+32]++; signHeader(b) }), formats.ErrCorrupt, "", "", false},
		{"one header twice", in(func(b []byte) { copy(b[64<<10:], b[headerAt:headerAt+4096]) }), nil, "", "", false},
		{"version 2", in(func(b []byte) { b[headerAt+66] = 2; signHeader(b) }), formats.ErrUnsupported, "", "", false},
		{"log version without log", in(func(b []byte) { b[headerAt+64] = 1; signHeader(b) }), nil, "", "", false},
		{"log over the metadata", in(func(b []byte) { put64(b, headerAt+72, metadataAt); signHeader(b) }), nil, "", formats.Overlap, false},
		{"log nowhere", in(func(b []byte) { put64(b, headerAt+72, 1<<50); signHeader(b) }), nil, "", formats.BadReference, false},

		{"first table", in(func(b []byte) { b[tableAt+5000]++ }), nil, "table", formats.BadMetadata, true},
		{"second table", in(func(b []byte) { b[tableAt+64<<10]++ }), nil, "table", formats.BadMetadata, true},
		{"both tables", in(func(b []byte) { b[tableAt]++; b[tableAt+64<<10]++ }), formats.ErrCorrupt, "", "", false},
		{"tables differ", in(func(b []byte) { b[tableAt+5000]++; signTables(b) }), nil, "", formats.BadMetadata, false},
		{"too many regions", table(func(x []byte) { put32(x, 8, 2048) }), formats.ErrCorrupt, "", "", false},
		{"no BAT", table(func(x []byte) { put32(x, 8, 1) }), formats.ErrCorrupt, "", "", false},
		{"metadata twice", table(func(x []byte) { copy(x[48:64], x[16:32]) }), formats.ErrCorrupt, "", "", false},
		{"region in the header", table(func(x []byte) { put64(x, 32, 0) }), formats.ErrCorrupt, "", "", false},
		{"region at an odd place", table(func(x []byte) { put64(x, 32, metadataAt+4096) }), formats.ErrCorrupt, "", "", false},
		{"region at an absurd place", table(func(x []byte) { put64(x, 32, 1<<63) }), formats.ErrCorrupt, "", "", false},
		{"region of odd length", table(func(x []byte) { put32(x, 40, 1<<20+1) }), formats.ErrCorrupt, "", "", false},
		{"region behind the end", table(func(x []byte) { put64(x, 64, 1<<40) }), formats.ErrTruncated, "", "", false},
		{"BAT over the metadata", table(func(x []byte) { put64(x, 64, metadataAt) }), nil, "", formats.Overlap, false},
		{"unknown region", table(func(x []byte) { put32(x, 8, 3); x[80] = 1; put64(x, 96, 1<<20); put32(x, 104, 1<<20) }), nil, "", formats.Overlap, false},
		{"unknown region, required", table(func(x []byte) { put32(x, 8, 3); x[80] = 1; put64(x, 96, 1<<20); x[108] = 1 }), formats.ErrUnsupported, "", "", false},

		{"no metadata", in(func(b []byte) { b[metadataAt]++ }), formats.ErrCorrupt, "", "", false},
		{"too much metadata", in(func(b []byte) { b[metadataAt+11] = 8 }), formats.ErrCorrupt, "", "", false},
		{"no size", in(func(b []byte) { b[metadataAt+64]++; b[metadataAt+64+24] = 0 }), formats.ErrCorrupt, "", "", false},
		{"unknown item, required", in(func(b []byte) { b[metadataAt+10]++; b[metadataAt+32+5*32] = 1; b[metadataAt+56+5*32] = 4 }), formats.ErrUnsupported, "", "", false},
		{"user's item", in(func(b []byte) { b[metadataAt+10]++; b[metadataAt+32+5*32] = 1; b[metadataAt+56+5*32] = 1 }), nil, "", "", false},
		{"user's item, required", in(func(b []byte) { b[metadataAt+56] |= 1 }), formats.ErrUnsupported, "", "", false},
		{"item twice", in(func(b []byte) { copy(b[metadataAt+64:], b[metadataAt+32:metadataAt+64]) }), formats.ErrCorrupt, "", "", false},
		{"item in the table", in(func(b []byte) { copy(b[metadataAt+60000:], b[itemsAt:itemsAt+8]); put32(b, metadataAt+48, 60000) }), formats.ErrCorrupt, "", "", false},
		{"item behind the region", in(func(b []byte) { put32(b, metadataAt+48, 1<<20-4) }), formats.ErrCorrupt, "", "", false},
		{"huge item", in(func(b []byte) { put32(b, metadataAt+52, 1<<31) }), formats.ErrCorrupt, "", "", false},
		{"short item", in(func(b []byte) { put32(b, metadataAt+52, 4) }), formats.ErrCorrupt, "", "", false},
		{"blocks of no size", in(func(b []byte) { put32(b, itemsAt, 0) }), formats.ErrCorrupt, "", "", false},
		{"blocks of odd size", in(func(b []byte) { put32(b, itemsAt, 3<<20) }), formats.ErrCorrupt, "", "", false},
		{"huge blocks", in(func(b []byte) { put32(b, itemsAt, 512<<20) }), formats.ErrCorrupt, "", "", false},
		{"parent without locator", in(func(b []byte) { b[itemsAt+4] = 2 }), formats.ErrCorrupt, "", "", false},
		{"odd size", in(func(b []byte) { put64(b, itemsAt+8, 9<<20+100) }), formats.ErrCorrupt, "", "", false},
		{"huge size", in(func(b []byte) { put64(b, itemsAt+8, 64<<40+512) }), formats.ErrCorrupt, "", "", false},
		{"absurd size", in(func(b []byte) { put64(b, itemsAt+8, 1<<63) }), formats.ErrCorrupt, "", "", false},
		{"more than the BAT", in(func(b []byte) { put64(b, itemsAt+8, 1<<40) }), formats.ErrCorrupt, "", "", false},
		{"sectors of 520 bytes", in(func(b []byte) { put32(b, itemsAt+16, 520) }), formats.ErrCorrupt, "", "", false},

		{"block behind the end", bat(0, 1<<40|6), nil, "", formats.BadReference, false},
		{"block at an absurd place", bat(0, 1<<63|6), nil, "", formats.BadReference, false},
		{"block in the header", bat(0, 6), nil, "", formats.BadReference, false},
		{"block over the BAT", bat(0, batAt|6), nil, "", formats.Overlap, false},
		{"two blocks in one place", bat(2, dataAt|6), nil, "", formats.Overlap, false},
		{"lost block", bat(2, 0), nil, "", formats.Leak, false},
		{"unmapped block that is kept", in(func(b []byte) { b[batAt+16] = b[batAt+16]&^7 | 3 }), nil, "", "", false},
		{"reserved state", bat(0, dataAt|4), nil, "", formats.BadMetadata, false},
		{"partly, without parent", bat(0, dataAt|7), nil, "", formats.BadMetadata, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.change(bytes.Clone(good))
			img, err := vhdx.Open(formatstest.File("damaged.vhdx", b), nil)
			if !errors.Is(err, c.err) {
				t.Fatalf("opened with %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if all := strings.Join(img.Info().Warnings, "; "); !strings.Contains(all, c.warns) || (c.warns == "") != (all == "") {
				t.Errorf("warnings %q, want %q", all, c.warns)
			}
			found := formatstest.Problems(t, img)
			if c.finds == "" != (len(found) == 0) || c.finds != "" && !slices.ContainsFunc(found, func(p formats.Problem) bool { return p.Kind == c.finds }) {
				t.Errorf("problems %+v, want %q", found, c.finds)
			}
			mended := false
			for _, p := range found {
				for _, patch := range p.Patches {
					copy(b[patch.Offset:], patch.Bytes)
					again := open(t, b)
					mended = len(formatstest.Problems(t, again)) == 0 && len(again.Info().Warnings) == 0 && bytes.Equal(whole(t, again), content())
				}
			}
			if mended != c.mended {
				t.Errorf("mended: %v", mended)
			}
		})
	}
}

// What a block holds that is not there, and that a damaged one is an error and
// never made-up zeroes.
func TestStates(t *testing.T) {
	good := written(t, vhdx.Options{}, content())
	for _, c := range []struct {
		entry uint64
		err   error
	}{
		{0, nil}, {1, nil}, {2, nil}, {3, nil}, {dataAt, nil}, {dataAt | 1, nil}, {dataAt | 2, nil}, {dataAt | 3, nil},
		{dataAt | 4, formats.ErrCorrupt}, {dataAt | 5, formats.ErrCorrupt}, {dataAt | 7, formats.ErrCorrupt},
		{6, formats.ErrCorrupt}, {1<<63 | 6, formats.ErrCorrupt}, {1<<40 | 6, formats.ErrTruncated},
	} {
		b := bytes.Clone(good)
		put64(b, batAt, c.entry)
		img := open(t, b)
		p := bytes.Repeat([]byte{1}, 2<<20)
		n, err := img.ReadAt(p, 0)
		if !errors.Is(err, c.err) || err == nil && len(bytes.Trim(p, "\x00")) > 0 || err != nil && n > 0 {
			t.Errorf("%#x: read %d, %v", c.entry, n, err)
		}
		if n, err := img.ReadAt(p, 4<<20); n < len(p) {
			t.Errorf("%#x: the other blocks: %v", c.entry, err)
		}
	}
}

// A cut-off last block is whole where the disk ends before.
func TestLastBlockCut(t *testing.T) {
	data := content()
	b := written(t, vhdx.Options{}, data)
	b = b[:len(b)-(2<<20-(1<<20+4096))]
	img := open(t, b)
	formatstest.Disk(t, img, bytes.NewReader(data))
	if list := formatstest.Problems(t, img); len(list) > 0 {
		t.Errorf("%+v", list)
	}
}

// sparse is a file of any size that has only what was written to it.
type sparse struct {
	*formatstest.Memory
	end int64
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	s.end = max(s.end, off+int64(len(p)))
	return s.Memory.WriteAt(p, off)
}

// The largest disk costs what it holds, and a table of its size.
func TestHuge(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		out := &sparse{Memory: formatstest.NewMemory(1 << 40)}
		w, err := vhdx.NewWriter(out, 64<<40, vhdx.Options{Sector: sector})
		if err != nil {
			t.Fatal(err)
		}
		host, _, err := w.Place(48<<40, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte("used"), 1<<18)
		if _, err := out.WriteAt(want, host); err != nil {
			t.Fatal(err)
		}
		size, err := w.Finish()
		if err != nil || size > 64<<20 {
			t.Fatalf("file of %d bytes, %v", size, err)
		}
		img, err := vhdx.Open(formats.File{ReaderAt: out.Ready(), Size: size, Name: "huge"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		list, err := formatstest.Extents(img, 1000)
		if err != nil || len(list) > 100 {
			t.Errorf("%d extents, %v", len(list), err)
		}
		got := make([]byte, len(want))
		if _, err := img.ReadAt(got, 48<<40); err != nil || !bytes.Equal(got, want) {
			t.Errorf("content: %v", err)
		}
		if list := formatstest.Problems(t, img); len(list) > 0 {
			t.Errorf("%+v", list)
		}
	}
	if _, err := vhdx.NewWriter(new(formatstest.Buffer), 64<<40+1, vhdx.Options{}); !errors.Is(err, vhdx.ErrOptions) {
		t.Errorf("more than 64 TiB: %v", err)
	}
}

func TestOptions(t *testing.T) {
	var out formatstest.Buffer
	for _, opt := range []vhdx.Options{{Variant: "thick"}, {Sector: 520}} {
		if _, err := vhdx.NewWriter(&out, 1<<20, opt); !errors.Is(err, vhdx.ErrOptions) {
			t.Errorf("%+v: %v", opt, err)
		}
	}
	for _, size := range []int64{0, 1, 511, 4095} {
		img := open(t, written(t, vhdx.Options{Sector: 4096}, make([]byte, size)))
		if want := (size + 4095) / 4096 * 4096; img.Size() != want || len(formatstest.Problems(t, img)) > 0 {
			t.Errorf("%d bytes: %d, %+v", size, img.Size(), formatstest.Problems(t, img))
		}
	}
}

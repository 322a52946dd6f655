package vhdx

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/guid"
)

// maxChecked is far more than the largest disk and its tables take.
const maxChecked = 128 << 40

// checker notes which parts of the file belong to something: all begin at a
// multiple of sectionSize, and there is a bit for each such unit.
type checker struct {
	*Image
	report func(formats.Problem) error
	units  int64
	seen   []uint64
	// begin and end are where the first block begins and the last one ends.
	begin, end int64
}

// Check implements formats.Checker. It takes a bit of memory for each MiB of the
// file.
func (img *Image) Check(ctx context.Context, report func(formats.Problem) error) error {
	if img.file.Size > maxChecked {
		return fmt.Errorf("check %s: file of %d bytes: %w", img.file.Name, img.file.Size, formats.ErrUnsupported)
	}
	c := &checker{Image: img, report: report, units: img.file.Size / sectionSize, begin: img.file.Size}
	c.seen = make([]uint64, c.units/64+1)
	for _, step := range []func() error{
		c.checkHeaders, c.checkTables, c.checkRegions,
		func() error { return c.checkBAT(ctx, c.checkBlock) },
		func() error { return c.checkBAT(ctx, c.keep) },
		c.checkLost,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// say reports a problem.
func (c *checker) say(kind string, harmless bool, at int64, format string, args ...any) error {
	return c.report(formats.Problem{Kind: kind, Harmless: harmless, Offset: at, Message: fmt.Sprintf(format, args...)})
}

// checkHeaders looks at the headers, and at the log that the current one has.
func (c *checker) checkHeaders() error {
	t, err := readHeaders(c.raw)
	if err != nil {
		return err
	}
	i, err := t.current()
	if err != nil {
		return err
	}
	if !t.good[1-i] {
		if err := c.mend(t, headersAt(), "header", nextHeader); err != nil {
			return err
		}
	}
	if c.over == nil {
		return nil
	}
	p := formats.Problem{Kind: formats.BadMetadata, Harmless: true, Offset: int64(c.logAt), Message: "the log holds updates that are not at their place yet"}
	if p.Patches, err = c.over.patches(); err != nil {
		return err
	}
	if p.Patches != nil {
		p.Patches = append(p.Patches, formats.Patch{Offset: headersAt()[1-i], Bytes: nextHeader(bytes.Clone(t.raw[i]))})
	}
	return c.report(p)
}

// nextHeader makes the header that follows another one, 2.2.2.1, in which there
// is nothing in the log.
func nextHeader(b []byte) []byte {
	h := parseHeader(b)
	binary.LittleEndian.PutUint64(b[8:], h.sequence+1)
	copy(b[16:], guid.Bytes(uuid.NewSHA1(h.fileWrite, []byte("hyper2kvm repair"))))
	clear(b[48 : 48+guid.Size])
	sign(b)
	return b
}

// maxPatches is how much of a log is written to its place as a repair: more than
// the usual log of 1 MiB holds.
const maxPatches = 8 << 20

// patches are the writes of the log; none where they are too many, or make the
// file longer, which no repair does.
func (r *replayed) patches() ([]formats.Patch, error) {
	total := int64(0)
	for _, w := range r.writes {
		if total += w.length; total > maxPatches || r.size > r.base.Size {
			return nil, nil
		}
	}
	var out []formats.Patch
	for i := range r.writes {
		b, err := r.content(&r.writes[i])
		if err != nil {
			return nil, err
		}
		out = append(out, formats.Patch{Offset: r.writes[i].off, Bytes: b})
	}
	return out, nil
}

// checkTables looks at the region tables.
func (c *checker) checkTables() error {
	t, err := readTables(c.file)
	switch {
	case err != nil:
		return err
	case !t.good[0] || !t.good[1]:
		return c.mend(t, tablesAt(), "region table", bytes.Clone)
	case !bytes.Equal(t.raw[0], t.raw[1]):
		return c.say(formats.BadMetadata, false, tablesAt()[1], "the two region tables differ")
	}
	return nil
}

// mend reports the damaged one of two, which the other can be copied to. While
// there is something in the log, that comes first.
func (c *checker) mend(t twin, at [2]int64, what string, copied func([]byte) []byte) error {
	bad := 0
	if t.good[0] {
		bad = 1
	}
	p := formats.Problem{Kind: formats.BadMetadata, Harmless: true, Offset: at[bad], Message: fmt.Sprintf("%s %d of 2 is damaged", what, bad+1)}
	if c.over == nil {
		p.Patches = []formats.Patch{{Offset: at[bad], Bytes: copied(bytes.Clone(t.raw[1-bad]))}}
	}
	return c.report(p)
}

// checkRegions looks at the log and the regions.
func (c *checker) checkRegions() error {
	c.claim(0, sectionSize)
	log := region{id: "log", at: int64(min(c.logAt, maxFile)), length: int64(c.logLength)}
	for _, r := range append([]region{log}, c.regions...) {
		what := "region " + r.id
		if r.id == log.id {
			what = "log"
		}
		var err error
		switch {
		case r.length == 0: // nothing, wherever it is
		case r.at%sectionSize != 0 || r.at+r.length > c.file.Size:
			err = c.say(formats.BadReference, true, r.at, "%s: %d bytes at %d of a file of %d", what, r.length, r.at, c.file.Size)
		case c.claim(r.at, r.length):
			err = c.say(formats.Overlap, false, r.at, "%s overlaps with something before it", what)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// claim notes a part of the file; taken says that something else has of it.
func (c *checker) claim(at, length int64) (taken bool) {
	end := min((at+length)/sectionSize, c.units)
	for u := at / sectionSize; u < end; u++ {
		bit := uint64(1) << (u % 64)
		taken = taken || c.seen[u/64]&bit != 0
		c.seen[u/64] |= bit
	}
	return taken
}

// checkBAT has look look at each payload block and its entry.
func (c *checker) checkBAT(ctx context.Context, look func(block int64, e entry) error) error {
	bat := cursor{Image: c.Image}
	for block := range c.blocks {
		if block%batEntries == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e, err := bat.at(blockIndex(block, c.ratio))
		if err != nil {
			return err
		}
		if err := look(block, e); err != nil {
			return err
		}
	}
	return nil
}

// checkBlock looks at a payload block, and with the first of a chunk at its
// sector bitmap.
func (c *checker) checkBlock(block int64, e entry) error {
	if block%c.ratio == 0 {
		if err := c.checkMap(block); err != nil {
			return err
		}
	}
	if s := e.state(); s == notPresent || s == undefined || s == zero || s == unmapped {
		return nil
	}
	at, what := c.bat.at+blockIndex(block, c.ratio)*8, fmt.Sprintf("block %d", block)
	switch e.state() {
	case fullyPresent:
	case partiallyPresent:
		if !c.child {
			return c.say(formats.BadMetadata, false, at, "%s is partly here, and the disk has no parent", what)
		}
		if m, err := c.entry(mapIndex(block, c.ratio)); err != nil {
			return err
		} else if m.state() != fullyPresent {
			return c.say(formats.BadReference, false, at, "%s is partly here, and has no sector bitmap", what)
		}
	default:
		return c.say(formats.BadMetadata, false, at, "%s is in state %d, which is none", what, e.state())
	}
	return c.place(what, at, e, c.block, min(c.block, c.size-block*c.block))
}

// checkMap looks at the sector bitmap of a block's chunk.
func (c *checker) checkMap(block int64) error {
	index := mapIndex(block, c.ratio)
	if index >= c.entries() {
		return nil
	}
	m, err := c.entry(index)
	at, what := c.bat.at+index*8, fmt.Sprintf("sector bitmap of block %d", block)
	switch {
	case err != nil || m.state() == notPresent:
		return err
	case !c.child:
		return c.say(formats.BadMetadata, true, at, "%s, of a disk without parent", what)
	case m.state() != fullyPresent:
		return c.say(formats.BadMetadata, false, at, "%s is in state %d, which is none", what, m.state())
	}
	return c.place(what, at, m, mapSize, mapSize)
}

// place looks at where a block lies: needed are the bytes of it that the disk has.
func (c *checker) place(what string, at int64, e entry, length, needed int64) error {
	if e.at() < sectionSize || e.at() > maxFile || e.at()+needed > c.file.Size {
		return c.say(formats.BadReference, false, at, "%s lies at %d of a file of %d bytes", what, uint64(e.at()), c.file.Size)
	}
	c.begin, c.end = min(c.begin, e.at()), max(c.end, e.at()+length)
	if c.claim(e.at(), length) {
		return c.say(formats.Overlap, false, at, "%s lies at %d, where something else does", what, e.at())
	}
	return nil
}

// keep notes the room that a block keeps which holds nothing any more.
func (c *checker) keep(_ int64, e entry) error {
	if s := e.state(); (s == undefined || s == unmapped) && e.at() >= sectionSize && e.at() <= maxFile {
		c.claim(e.at(), c.block)
	}
	return nil
}

// checkLost looks for room between the blocks that belongs to nothing. What lies
// before them QEMU leaves free, and a file may grow before it is put to use.
func (c *checker) checkLost() error {
	lost, first := int64(0), int64(0)
	for u := c.begin / sectionSize; u < min(c.end/sectionSize, c.units); u++ {
		if c.seen[u/64]&(1<<(u%64)) == 0 {
			if lost == 0 {
				first = u * sectionSize
			}
			lost += sectionSize
		}
	}
	if lost == 0 {
		return nil
	}
	return c.say(formats.Leak, true, first, "%d bytes belong to nothing", lost)
}

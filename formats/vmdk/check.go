package vmdk

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"hyper2kvm/formats"
)

// Bounds of what a check keeps in memory.
const (
	chunkWords = 4096    // of a chunk of unitSet: 32 KiB
	maxChunks  = 1 << 12 // 128 MiB: 64 TiB of grains of 64 KiB, or a stream of 512 GiB
	maxSpans   = 1 << 22
)

// checker is the check of one sparse file.
type checker struct {
	ctx     context.Context
	s       *sparse
	own     bool // it is the image's first file, so patches can be given
	harmful bool // something was found that is not harmless
	say     func(formats.Problem) error
	spare   []uint32 // the redundant directory, as far as it can be read
	meta    []span   // what is no grain, in order
	used    unitSet  // what grains take
	unit    int64    // bytes: all grains begin at multiples of it
}

// span is a part of the file that is no grain.
type span struct {
	start, end int64
	what       string
}

// Check implements formats.Checker. Flat extents have no structure.
func (m *Image) Check(ctx context.Context, report func(formats.Problem) error) error {
	for _, p := range m.parts {
		s, ok := p.disk.(*sparse)
		if !ok {
			continue
		}
		c := &checker{ctx: ctx, s: s, own: m.own, say: report, used: unitSet{chunks: make(map[int64]*[chunkWords]uint64)}}
		for _, step := range []func() error{c.checkTables, c.findUnit, c.checkGrains, c.checkSpare, c.checkLost} {
			if err := step(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) problem(kind string, at int64, harmless bool, patch *formats.Patch, format string, args ...any) error {
	c.harmful = c.harmful || !harmless
	p := formats.Problem{Kind: kind, Offset: at, Harmless: harmless, Message: fmt.Sprintf(format, args...)}
	if !c.own {
		p.Message = c.s.file.Name + ": " + p.Message
	} else if patch != nil {
		p.Patches = []formats.Patch{*patch}
	}
	return c.say(p)
}

// checkTables collects what is no grain, and finds what of it overlaps.
func (c *checker) checkTables() error {
	s := c.s
	c.meta = append(c.meta, s.places...)
	if err := c.readSpare(); err != nil {
		return err
	}
	for _, gd := range [][]uint32{s.gd, c.spare} {
		for i, e := range gd {
			if e == 0 {
				continue
			}
			if len(c.meta) >= maxSpans {
				return fmt.Errorf("%s: check of more than %d grain tables: %w", s.file.Name, maxSpans, formats.ErrUnsupported)
			}
			at := s.tableAt(e)
			if at+s.tableBytes() > s.file.Size { // a redundant one: the others were looked at by Open
				if err := c.problem(formats.BadReference, at, true, nil, "redundant grain table %d lies outside of the file", i); err != nil {
					return err
				}
				continue
			}
			c.meta = append(c.meta, span{at, at + s.tableBytes(), "a grain table"})
		}
	}
	slices.SortFunc(c.meta, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	end, last := int64(0), ""
	for _, m := range c.meta {
		if m.start < end {
			if err := c.problem(formats.Overlap, m.start, false, nil, "%s and %s overlap", last, m.what); err != nil {
				return err
			}
		}
		if m.end > end {
			end, last = m.end, m.what
		}
	}
	return nil
}

// readSpare reads the redundant directory. Where Open took it for the first one,
// or it is not there, nothing is compared.
func (c *checker) readSpare() error {
	if c.s.spareAt == 0 || c.s.damaged != "" {
		return nil
	}
	var err error
	if c.spare, err = c.s.readDirectory(c.s.spareAt); errors.Is(err, formats.ErrTruncated) {
		c.spare, err = nil, c.problem(formats.BadReference, 48, true, nil, "the redundant grain directory: %v", err)
	}
	return err
}

// overlaps names what of the tables and headers lies in a part of the file, ""
// for nothing.
func (c *checker) overlaps(start, end int64) string {
	i, _ := slices.BinarySearchFunc(c.meta, end, func(m span, end int64) int { return cmp.Compare(m.start, end) })
	if i > 0 && c.meta[i-1].end > start {
		return c.meta[i-1].what
	}
	return ""
}

// eachGrain visits the grains that lie in the file: entry is where the entry of
// the table stands, at what it says. Tables that cannot be read go to bad.
func (c *checker) eachGrain(bad func(error) error, visit func(index, entry, at int64) error) error {
	s := c.s
	width := s.tableBytes() / s.perTable
	for i := range int64(len(s.gd)) {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		table, err := s.table(i)
		if err != nil {
			if !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrTruncated) {
				return err
			}
			if err := bad(err); err != nil {
				return err
			}
			continue
		}
		for j, at := range table {
			index := i*s.perTable + int64(j)
			if at <= 0 || index*s.grain >= s.size {
				continue
			}
			if err := visit(index, s.tableAt(s.gd[i])+int64(j)*width, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// findUnit finds out how the grains are aligned.
func (c *checker) findUnit() error {
	c.unit = c.s.grain
	if c.s.grains != nil {
		c.unit = sectorSize
		return nil
	}
	return c.eachGrain(func(error) error { return nil }, func(_, _, at int64) error {
		for a, b := c.unit, at%c.unit; ; a, b = b, a%b {
			if b == 0 {
				c.unit = a
				return nil
			}
		}
	})
}

// checkGrains finds entries that lead nowhere, or where something else lies.
func (c *checker) checkGrains() error {
	return c.eachGrain(func(err error) error {
		return c.problem(formats.BadReference, 0, false, nil, "%v", err)
	}, func(index, entry, at int64) error {
		n, wrong, err := c.extentOf(index, at)
		if err != nil {
			return err
		}
		if wrong != "" {
			return c.problem(formats.BadReference, entry, false, nil, "grain %d at %d: %s", index, at, wrong)
		}
		if what := c.overlaps(at, at+n); what != "" {
			return c.problem(formats.Overlap, entry, false, nil, "grain %d lies at %d, where %s lies", index, at, what)
		}
		twice := false
		for u := at / c.unit; u <= (at+n-1)/c.unit; u++ {
			fresh, ok := c.used.add(u)
			if !ok {
				return fmt.Errorf("%s: check of so large a file: %w", c.s.file.Name, formats.ErrUnsupported)
			}
			twice = twice || !fresh
		}
		if twice {
			return c.problem(formats.Overlap, entry, false, nil, "grain %d lies at %d, where another one lies", index, at)
		}
		return nil
	})
}

// extentOf says how many bytes of the file a grain takes, or what is wrong.
func (c *checker) extentOf(index, at int64) (n int64, wrong string, err error) {
	s := c.s
	n = min(s.grain, s.size-index*s.grain) // the last one may be cut off where the disk ends
	switch {
	case s.grains != nil && s.markers:
		n = markerBytes
	case s.grains != nil:
		n = 1 // how long it is only its content says
	}
	outside := fmt.Sprintf("outside of the file of %d bytes", s.file.Size)
	if n > s.file.Size-at {
		return 0, outside, nil
	}
	if s.grains == nil || !s.markers {
		return n, "", nil
	}
	var b [markerBytes]byte
	if err := formats.ReadFull(s.file, b[:], at); err != nil {
		return 0, "", err
	}
	lba, size := binary.LittleEndian.Uint64(b[:]), int64(binary.LittleEndian.Uint32(b[8:]))
	switch {
	case lba != uint64(index*s.grain/sectorSize):
		return 0, fmt.Sprintf("the marker there is for sector %d", lba), nil
	case size > 2*s.grain || n+size > s.file.Size-at:
		return 0, fmt.Sprintf("%d compressed bytes", size), nil
	}
	return n + size, "", nil
}

// checkSpare compares the redundant tables with the first ones.
func (c *checker) checkSpare() error {
	s := c.s
	if s.damaged != "" {
		return c.problem(formats.BadMetadata, 0, true, nil, "%s", s.damaged)
	}
	first, second := make([]byte, s.tableBytes()), make([]byte, s.tableBytes())
	for i, e := range c.spare {
		at := s.tableAt(e)
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		if e == 0 || s.gd[i] == 0 || at+s.tableBytes() > s.file.Size {
			if (e == 0) != (s.gd[i] == 0) {
				if err := c.problem(formats.BadMetadata, 0, true, nil, "grain table %d is there only once", i); err != nil {
					return err
				}
			}
			continue
		}
		if err := errors.Join(formats.ReadFull(s.file, first, s.tableAt(s.gd[i])), formats.ReadFull(s.file, second, at)); err != nil {
			return err
		}
		if slices.Equal(first, second) {
			continue
		}
		if err := c.differs(i, at, first, second); err != nil {
			return err
		}
	}
	return nil
}

// differs judges a redundant table at that place that is not what the first is.
func (c *checker) differs(i int, at int64, first, second []byte) error {
	for j := 0; j < len(first); j += 4 {
		e := int64(binary.LittleEndian.Uint32(second[j:])) * sectorSize
		if bytes.Equal(first[j:j+4], second[j:j+4]) || e <= sectorSize || e+c.s.grain > c.s.file.Size || c.overlaps(e, e+c.s.grain) != "" || c.used.has(e/c.unit) {
			continue
		}
		return c.problem(formats.BadMetadata, at, false, nil, "redundant grain table %d has a grain at %d that the first one has lost", i, e)
	}
	// Where anything is wrong, which of the two is right is not known, nor what
	// lies where the redundant one should.
	var patch *formats.Patch
	if !c.harmful {
		patch = &formats.Patch{Offset: at, Bytes: slices.Clone(first)}
	}
	return c.problem(formats.BadMetadata, at, true, patch, "redundant grain table %d differs from the first one", i)
}

// checkLost finds room that belongs to nothing. Only files whose layout is known
// in full can have it told: no stream, and no seSparse.
func (c *checker) checkLost() error {
	s := c.s
	if s.grains != nil || s.se != nil {
		return nil
	}
	for _, m := range c.meta {
		for u := m.start / c.unit; u <= (m.end-1)/c.unit; u++ {
			if _, ok := c.used.add(u); !ok {
				return nil
			}
		}
	}
	lost := (s.file.Size/c.unit - c.used.count()) * c.unit
	if lost < s.grain { // less is alignment
		return nil
	}
	return c.problem(formats.Leak, 0, true, nil, "%d bytes of the file belong to no grain", lost)
}

// unitSet is a set of parts of a file.
type unitSet struct {
	chunks map[int64]*[chunkWords]uint64
}

// add puts a part into the set; ok is false where there are too many.
func (u *unitSet) add(i int64) (fresh, ok bool) {
	const per = chunkWords * 64
	c := u.chunks[i/per]
	if c == nil {
		if len(u.chunks) >= maxChunks {
			return false, false
		}
		c = new([chunkWords]uint64)
		u.chunks[i/per] = c
	}
	word, bit := &c[i%per/64], uint64(1)<<(i%64)
	fresh = *word&bit == 0
	*word |= bit
	return fresh, true
}

func (u *unitSet) has(i int64) bool {
	const per = chunkWords * 64
	c := u.chunks[i/per]
	return c != nil && c[i%per/64]&(1<<(i%64)) != 0
}

func (u *unitSet) count() int64 {
	n := int64(0)
	for _, c := range u.chunks {
		for _, w := range c {
			n += int64(bits.OnesCount64(w))
		}
	}
	return n
}

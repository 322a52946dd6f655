package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"hyper2kvm/formats"
)

// Bits of a table entry that must be zero.
const (
	reservedL1 = 0x7f000000000001ff
	reservedL2 = 0x3f000000000001fe
)

// maxPatched is how many problems of one check can be mended at once: their
// patches are kept in memory.
const maxPatched = 1 << 17

// checker is one check of an image. It counts what refers to each cluster of
// the file, and compares that with the refcounts that are stored.
type checker struct {
	ctx     context.Context
	img     *Image
	say     func(formats.Problem) error
	refs    tally
	counts  stored
	harmful bool // something was found that is not harmless
	overlap bool // tables were found to lie where something else does: to mend them would change that
	patched int
}

// Check implements formats.Checker. It finds what `qemu-img check` does, and
// mends what is safe: leaked clusters where nothing else is wrong, refcounts
// that are missing, and marks that do not agree with the refcounts.
func (q *Image) Check(ctx context.Context, report func(formats.Problem) error) error {
	c := &checker{ctx: ctx, img: q, say: report, refs: tally{chunks: make(map[int64]*[tallyChunk]uint16)}}
	for _, step := range []func() error{c.countHeader, c.countRefcounts, c.countSnapshots, c.countBitmaps, c.compare, c.checkMarks, c.findLeaks, c.checkFlags} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) report(p formats.Problem) error {
	c.harmful = c.harmful || !p.Harmless
	c.overlap = c.overlap || p.Kind == formats.Overlap
	if len(p.Patches) > 0 {
		if c.patched++; c.patched > maxPatched || c.overlap {
			p.Patches = nil
		}
	}
	return c.say(p)
}

func (c *checker) problem(kind string, at int64, harmless bool, format string, args ...any) error {
	return c.report(formats.Problem{Kind: kind, Offset: at, Harmless: harmless, Message: fmt.Sprintf(format, args...)})
}

// take counts a reference to length bytes at off, which stands in the file at
// entry. It reports whether what is there can be looked at: it lies in the file
// and, for tables, was not taken before.
func (c *checker) take(entry int64, off uint64, length int64, role uint16, what string) (bool, error) {
	size := uint64(c.img.file.Size)
	cluster := c.img.cluster
	switch {
	case role != rolePacked && off%uint64(cluster) != 0:
		return false, c.problem(formats.BadReference, entry, false, "%s lies at %d, which is no begin of a cluster", what, off)
	case off >= size || uint64(length) > size-off+uint64(cluster):
		return false, c.problem(formats.BadReference, entry, false, "%s of %d bytes lies at %d of a file of %d bytes", what, length, off, size)
	}
	fresh := true
	last := min(int64(off)+length-1, int64(size)-1) / cluster
	for i := int64(off) / cluster; i <= last; i++ {
		before, ok := c.refs.add(i, role)
		if !ok {
			return false, fmt.Errorf("%s: check of more than %d clusters: %w", c.img.file.Name, int64(maxChunks*tallyChunk), formats.ErrUnsupported)
		}
		if before != 0 && (before != role || role == roleTable) {
			fresh = false
			if err := c.problem(formats.Overlap, entry, false, "%s lies at %d, where something else lies as well", what, i*cluster); err != nil {
				return false, err
			}
		}
	}
	return fresh, nil
}

// table reads n words at off, which an entry refers to. What cannot be read of
// it is a problem, and gives none.
func (c *checker) table(entry int64, off uint64, n int64, what string) ([]uint64, error) {
	words, err := c.img.readWords(int64(off), n)
	return words, c.unreadable(entry, what, err)
}

// unreadable makes a problem of an error that is the image's fault.
func (c *checker) unreadable(entry int64, what string, err error) error {
	if errors.Is(err, formats.ErrTruncated) || errors.Is(err, formats.ErrCorrupt) {
		return c.problem(formats.BadReference, entry, false, "%s cannot be read: %v", what, err)
	}
	return err
}

// countHeader counts the header and the active tables.
func (c *checker) countHeader() error {
	if _, err := c.take(0, 0, 1, roleTable, "the header"); err != nil {
		return err
	}
	h := c.img.head
	return c.countL1(40, h.l1Offset, int64(h.l1Size), "the L1 table")
}

// countL1 counts an L1 table and all that it leads to.
func (c *checker) countL1(entry int64, at uint64, size int64, what string) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if size == 0 {
		return nil
	}
	if size > maxL1Bytes/8 {
		return c.problem(formats.BadReference, entry, false, "%s has %d entries", what, size)
	}
	ok, err := c.take(entry, at, size*8, roleTable, what)
	if err != nil || !ok {
		return err
	}
	l1, err := c.table(entry, at, size, what)
	if err != nil {
		return err
	}
	seen := make(map[uint64]bool)
	for i, e := range l1 {
		if err := c.countL2(int64(at)+int64(i)*8, e, seen); err != nil {
			return err
		}
	}
	return nil
}

// countL2 counts the L2 table of an entry of an L1 table, and its clusters. seen
// are the tables of that L1 table.
func (c *checker) countL2(entry int64, e uint64, seen map[uint64]bool) error {
	off := e & offsetMask
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if e&reservedL1 != 0 {
		if err := c.problem(formats.BadMetadata, entry, true, "reserved bits are set in an entry of an L1 table"); err != nil {
			return err
		}
	}
	if off == 0 {
		return nil
	}
	ok, err := c.take(entry, off, c.img.cluster, roleL2, "an L2 table")
	if err != nil || !ok {
		return err
	}
	if seen[off] {
		return c.problem(formats.Overlap, entry, false, "the L2 table at %d is there for two parts of the disk", off)
	}
	seen[off] = true
	table, err := c.table(entry, off, c.img.cluster/8, "an L2 table")
	if err != nil {
		return err
	}
	step := c.img.words()
	for i := 0; i < len(table); i += step {
		if err := c.countCluster(int64(off)+int64(i)*8, table[i:i+step]); err != nil {
			return err
		}
	}
	return nil
}

// words is how many words an entry of an L2 table has.
func (q *Image) words() int {
	if q.extended {
		return 2
	}
	return 1
}

// countCluster counts what an entry of an L2 table refers to.
func (c *checker) countCluster(entry int64, e []uint64) error {
	q := c.img
	if e[0]&entryCompressed != 0 {
		if q.external {
			return c.problem(formats.BadReference, entry, false, "a compressed cluster of a disk with a data file of its own")
		}
		off, length := q.packedAt(e[0])
		_, err := c.take(entry, uint64(off), length, rolePacked, "compressed data")
		return err
	}
	if e[0]&reservedL2 != 0 {
		if err := c.problem(formats.BadMetadata, entry, true, "reserved bits are set in an entry of an L2 table"); err != nil {
			return err
		}
	}
	if q.extended && e[1]&(e[1]>>subclusters)&(1<<subclusters-1) != 0 {
		if err := c.problem(formats.BadMetadata, entry+8, false, "parts of a cluster are both allocated and zero"); err != nil {
			return err
		}
	}
	off := e[0] & offsetMask
	switch {
	case q.external && e[0]&entryZero != 0:
		return nil
	case q.external:
		if off%uint64(q.cluster) != 0 || off >= uint64(max(q.data.Size, 1)) {
			return c.problem(formats.BadReference, entry, false, "a cluster lies at %d of a data file of %d bytes", off, q.data.Size)
		}
		return nil
	case off == 0:
		return nil
	}
	_, err := c.take(entry, off, q.cluster, roleData, "a cluster of the disk")
	return err
}

// countRefcounts reads the refcount table, and counts it and its blocks.
func (c *checker) countRefcounts() error {
	q, h := c.img, c.img.head
	bits := int64(1) << h.refcountOrder
	c.counts = stored{file: q.file, cluster: q.cluster, bits: bits, perBlock: q.cluster * 8 / bits, index: -1, block: make([]byte, q.cluster)}
	size := int64(h.refTableSize) * q.cluster
	if size > maxRefTable {
		return c.problem(formats.BadReference, 56, false, "the refcount table has %d bytes", size)
	}
	ok, err := c.take(48, h.refTableAt, size, roleTable, "the refcount table")
	if err != nil || !ok {
		return err
	}
	if c.counts.blocks, err = c.table(48, h.refTableAt, size/8, "the refcount table"); err != nil {
		return err
	}
	for i, off := range c.counts.blocks {
		if off == 0 {
			continue
		}
		if _, err = c.take(int64(h.refTableAt)+int64(i)*8, off, q.cluster, roleTable, "a refcount block"); err != nil {
			return err
		}
		if off%uint64(q.cluster) != 0 || q.file.Size < q.cluster || off > uint64(q.file.Size-q.cluster) {
			c.counts.blocks[i] = 0
		}
	}
	return nil
}

// countSnapshots counts the internal snapshots and all that they lead to.
func (c *checker) countSnapshots() error {
	h := c.img.head
	if h.snapshots == 0 {
		return nil
	}
	end, err := h.eachSnapshot(c.img.file, h.snapshots, func(_ uint32, s snapshot) error {
		return c.countL1(64, s.l1Offset, int64(s.l1Size), "the L1 table of a snapshot")
	})
	if err != nil {
		return c.unreadable(64, "the table of snapshots", err)
	}
	_, err = c.take(64, h.snapshotsAt, int64(end-h.snapshotsAt), roleTable, "the table of snapshots")
	return err
}

// countBitmaps counts the dirty bitmaps.
func (c *checker) countBitmaps() error {
	h := c.img.head
	if h.bitmaps == 0 || h.outdated {
		return nil
	}
	if h.bitmapsSize > 1<<32 {
		return c.problem(formats.BadReference, 0, false, "the directory of dirty bitmaps has %d bytes", h.bitmapsSize)
	}
	ok, err := c.take(0, h.bitmapsAt, int64(h.bitmapsSize), roleTable, "the directory of dirty bitmaps")
	if err != nil || !ok {
		return err
	}
	err = h.eachBitmap(c.img.file, h.bitmaps, func(_ uint32, b bitmap) error { return c.countBitmap(b) })
	return c.unreadable(int64(h.bitmapsAt), "the directory of dirty bitmaps", err)
}

func (c *checker) countBitmap(b bitmap) error {
	if b.tableSize == 0 || c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	ok, err := c.take(int64(c.img.head.bitmapsAt), b.tableOffset, int64(b.tableSize)*8, roleTable, "the table of a dirty bitmap")
	if err != nil || !ok {
		return err
	}
	table, err := c.table(int64(c.img.head.bitmapsAt), b.tableOffset, int64(b.tableSize), "the table of a dirty bitmap")
	if err != nil {
		return err
	}
	for i, e := range table {
		if off := e & offsetMask; off != 0 {
			if _, err := c.take(int64(b.tableOffset)+int64(i)*8, off, c.img.cluster, roleTable, "a dirty bitmap"); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachCounted visits, in order, the clusters of the file that have a refcount or
// could have one: those of blocks that are there or should be.
func (c *checker) eachCounted(visit func(cluster int64) error) error {
	per := c.counts.perBlock
	blocks := make(map[int64]bool)
	for i, off := range c.counts.blocks {
		if off != 0 {
			blocks[int64(i)] = true
		}
	}
	for i := range c.refs.chunks {
		for b := i * tallyChunk / per; b <= (i*tallyChunk+tallyChunk-1)/per; b++ {
			blocks[b] = true
		}
	}
	end := (c.img.file.Size + c.img.cluster - 1) / c.img.cluster
	for _, b := range slices.Sorted(maps.Keys(blocks)) {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		for cluster := b * per; cluster < min((b+1)*per, end); cluster++ {
			if err := visit(cluster); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare finds clusters whose refcount is too low: whoever writes to the disk
// would take them for free.
func (c *checker) compare() error {
	return c.eachCounted(func(cluster int64) error {
		_, want := c.refs.of(cluster)
		if want == 0 {
			return nil
		}
		have, err := c.counts.get(cluster)
		if err != nil || have >= want {
			return err
		}
		return c.tooLow(cluster, have, want)
	})
}

func (c *checker) tooLow(cluster int64, have, want uint64) error {
	p := formats.Problem{Kind: formats.BadMetadata, Offset: cluster * c.img.cluster,
		Message: fmt.Sprintf("its refcount is %d, and %d refer to it", have, want)}
	role, _ := c.refs.of(cluster)
	switch {
	case role == roleData && have == 1 && c.img.head.snapshots == 0:
		p.Kind, p.Message = formats.Overlap, fmt.Sprintf("%d parts of the disk call this cluster theirs", want)
	case have == 0 && (want == 1 || role == rolePacked):
		patch, ok, err := c.counts.set(cluster, want)
		if err != nil {
			return err
		}
		if ok {
			p.Patches = []formats.Patch{patch}
		}
	}
	return c.report(p)
}

// findLeaks finds clusters whose refcount is too high. What is lost may be what
// damage elsewhere has lost the way to: then it is left.
func (c *checker) findLeaks() error {
	keep := c.harmful
	return c.eachCounted(func(cluster int64) error {
		have, err := c.counts.get(cluster)
		if err != nil || have == 0 {
			return err
		}
		_, want := c.refs.of(cluster)
		if have <= want || want == countMask {
			return nil
		}
		p := formats.Problem{Kind: formats.Leak, Offset: cluster * c.img.cluster, Harmless: true,
			Message: fmt.Sprintf("its refcount is %d, and %d refer to it", have, want)}
		if !keep {
			patch, ok, err := c.counts.set(cluster, want)
			if err != nil {
				return err
			}
			if ok {
				p.Patches = []formats.Patch{patch}
			}
		}
		return c.report(p)
	})
}

// checkFlags looks at what the header says of the state of the image. Where
// nothing else is wrong, that is over.
func (c *checker) checkFlags() error {
	const at = 79 // the byte of incompatible_features that has both bits
	flags := byte(c.img.head.incompatible)
	for _, x := range []struct {
		bit  byte
		what string
	}{
		{incompatDirty, "the image was not closed cleanly: its refcounts may lag behind"},
		{incompatCorrupt, "the image is marked corrupt: QEMU does not write to it"},
	} {
		if flags&x.bit == 0 {
			continue
		}
		p := formats.Problem{Kind: formats.BadMetadata, Offset: at, Harmless: true, Message: x.what}
		if !c.harmful {
			flags &^= x.bit
			p.Patches = []formats.Patch{{Offset: at, Bytes: []byte{flags}}}
		}
		if err := c.report(p); err != nil {
			return err
		}
	}
	return nil
}

// checkMarks looks at the marks of clusters that have one reference only, in the
// active tables: a wrong one makes a snapshot share what is written.
func (c *checker) checkMarks() error {
	at := int64(c.img.head.l1Offset)
	for i, e := range c.img.l1 {
		off := e & offsetMask
		if off == 0 {
			continue
		}
		if err := c.checkMark(at+int64(i)*8, e); err != nil {
			return err
		}
		if c.img.external {
			continue
		}
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		table, err := c.img.readWords(int64(off), c.img.cluster/8)
		if err != nil {
			return fmt.Errorf("L2 table %d: %w", i, err)
		}
		for j := 0; j < len(table); j += c.img.words() {
			if err := c.checkMark(int64(off)+int64(j)*8, table[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkMark looks at one entry.
func (c *checker) checkMark(entry int64, e uint64) error {
	off := int64(e & offsetMask)
	if off == 0 || e&entryCompressed != 0 || off%c.img.cluster != 0 || off >= c.img.file.Size {
		return nil
	}
	have, err := c.counts.get(off / c.img.cluster)
	_, want := c.refs.of(off / c.img.cluster)
	marked := e&entryCopied != 0
	if err != nil || have < want || marked == (want == 1) {
		return err // a refcount that is too low was told as such
	}
	patch := formats.Patch{Offset: entry, Bytes: binary.BigEndian.AppendUint64(nil, e^entryCopied)}
	return c.report(formats.Problem{Kind: formats.BadMetadata, Offset: entry, Harmless: !marked, Patches: []formats.Patch{patch},
		Message: fmt.Sprintf("the cluster at %d has %d references, its mark for a single one says %v", off, want, marked)})
}

package probe

import (
	"encoding/binary"
	"sort"
)

// The log of XFS is a ring of 512-byte basic blocks. The first word of each is
// the number of the round (cycle) in which it was written, but in the header of
// a record it is a magic number and the cycle follows (XFS Algorithms & Data
// Structures, "Journaling Log"; fs/xfs/libxfs/xfs_log_format.h in Linux).
const (
	logBlock  = 512
	logMagic  = 0xfeedbabe
	logHeader = 32 << 10 // what one header block can describe of a record
	// maxRecord is the longest record with its headers, in basic blocks: 256 KiB
	// of content (XLOG_MAX_RECORD_BSIZE), a header for each 32 KiB.
	maxRecord = 256<<10/logBlock + 256<<10/logHeader
	// unmountOp is XLOG_UNMOUNT_TRANS, the flag of the operation that an unmount
	// logs last.
	unmountOp = 0x20
)

// xfsRing is the log of a file system.
type xfsRing struct {
	s             *source
	start, blocks int64 // in bytes, in basic blocks
}

// xfsRingOf finds the internal log by the super block; its start is given as
// allocation group and block within.
func xfsRingOf(s *source, sb []byte) (xfsRing, bool) {
	be := binary.BigEndian
	block, start, count := int64(be.Uint32(sb[4:])), be.Uint64(sb[48:]), int64(be.Uint32(sb[96:]))
	perGroup, bits := int64(be.Uint32(sb[84:])), sb[124]
	if start == 0 || bits > 31 || start>>bits > 1<<31 {
		return xfsRing{}, false
	}
	at := int64(start>>bits)*perGroup + int64(start&(1<<bits-1))
	if at <= 0 || at > s.size/block || count <= 0 || count > s.size/block-at {
		return xfsRing{}, false
	}
	return xfsRing{s: s, start: at * block, blocks: count * (block / logBlock)}, true
}

func (l xfsRing) block(i int64) []byte {
	return l.s.at(l.start+i*logBlock, logBlock)
}

// cycle is the round in which a block was written last, 0 for never.
func (l xfsRing) cycle(i int64) uint32 {
	b := l.block(i)
	switch {
	case b == nil:
		return 0
	case binary.BigEndian.Uint32(b) == logMagic:
		return binary.BigEndian.Uint32(b[4:])
	}
	return binary.BigEndian.Uint32(b)
}

// head is the block after the last that was written: blocks before it carry the
// newest cycle, those from it on an older one.
func (l xfsRing) head() int64 {
	newest := l.cycle(0)
	return int64(sort.Search(int(l.blocks), func(i int) bool { return l.cycle(int64(i)) != newest }))
}

// clean reports whether the last record is that of an unmount. Anything that is
// not as the kernel leaves it counts as not clean.
func (l xfsRing) clean() bool {
	head := l.head()
	for back := int64(1); back <= maxRecord && back <= l.blocks; back++ {
		at := (head - back + l.blocks) % l.blocks
		h := l.block(at)
		if h == nil {
			return false
		}
		if binary.BigEndian.Uint32(h) == logMagic {
			return l.unmounts(h, at, back)
		}
	}
	return false
}

// unmounts reports whether the record whose header h is in block at, back blocks
// before the head, holds an unmount alone.
func (l xfsRing) unmounts(h []byte, at, back int64) bool {
	be := binary.BigEndian
	length, ops, size := int64(be.Uint32(h[12:])), be.Uint32(h[40:]), int64(be.Uint32(h[320:]))
	headers := int64(1)
	if be.Uint32(h[8:])&2 != 0 && size > logHeader { // version 2 has several
		headers = (size + logHeader - 1) / logHeader
	}
	if ops != 1 || headers >= back || headers+(length+logBlock-1)/logBlock != back {
		return false
	}
	op := l.block((at + headers) % l.blocks)
	return op != nil && op[9]&unmountOp != 0
}

package qcow2

import (
	"encoding/binary"
	"fmt"

	"hyper2kvm/formats"
)

// What a cluster of the file is used for. The lower bits of its tally count the
// references to it.
const (
	roleTable  = 1 << 15 // header, L1 table, refcounts, snapshots, bitmaps: of one use only
	roleL2     = 1 << 14 // may be shared with snapshots, as data
	roleData   = 1 << 13
	rolePacked = 1 << 12 // compressed data, many of them in a cluster
	roles      = roleTable | roleL2 | roleData | rolePacked
	countMask  = rolePacked - 1
)

const (
	tallyChunk = 4096 // clusters of a chunk
	// maxChunks bounds the memory of a check to 128 MiB: enough for 4 TiB of data
	// in clusters of 64 KiB.
	maxChunks = 1 << 14
)

// tally counts the references to each cluster of the file.
type tally struct {
	chunks map[int64]*[tallyChunk]uint16
	last   *[tallyChunk]uint16 // the chunk that was used last, and which one it is
	index  int64
}

func (t *tally) chunk(cluster int64, add bool) *[tallyChunk]uint16 {
	i := cluster / tallyChunk
	if t.last != nil && t.index == i {
		return t.last
	}
	c := t.chunks[i]
	if c == nil && add {
		if len(t.chunks) >= maxChunks {
			return nil
		}
		c = new([tallyChunk]uint16)
		t.chunks[i] = c
	}
	if c != nil {
		t.last, t.index = c, i
	}
	return c
}

// add counts one more reference. It gives the roles that the cluster had.
func (t *tally) add(cluster int64, role uint16) (before uint16, ok bool) {
	c := t.chunk(cluster, true)
	if c == nil {
		return 0, false
	}
	v := &c[cluster%tallyChunk]
	before = *v & roles
	if *v&countMask < countMask {
		*v++
	}
	*v |= role
	return before, true
}

// of gives roles and number of references.
func (t *tally) of(cluster int64) (role uint16, count uint64) {
	c := t.chunk(cluster, false)
	if c == nil {
		return 0, 0
	}
	v := c[cluster%tallyChunk]
	return v & roles, uint64(v & countMask)
}

// stored are the refcounts as the image has them: blocks behind a table.
type stored struct {
	file     formats.File
	cluster  int64
	bits     int64 // of a refcount
	perBlock int64
	blocks   []uint64 // offsets, 0 where there is none or a bad one
	index    int64    // of the block in memory, -1 for none
	block    []byte
}

// load makes sure that the block of a cluster is in memory; false where there
// is none.
func (s *stored) load(cluster int64) (bool, error) {
	i := cluster / s.perBlock
	if i >= int64(len(s.blocks)) || s.blocks[i] == 0 {
		return false, nil
	}
	if s.index == i {
		return true, nil
	}
	s.index = -1
	if err := formats.ReadFull(s.file, s.block, int64(s.blocks[i])); err != nil {
		return false, fmt.Errorf("refcount block %d: %w", i, err)
	}
	s.index = i
	return true, nil
}

// get reads the refcount of a cluster, as far as a tally can count.
func (s *stored) get(cluster int64) (uint64, error) {
	there, err := s.load(cluster)
	if err != nil || !there {
		return 0, err
	}
	n := s.field(cluster)
	b := s.block[n/8:]
	switch s.bits {
	case 8:
		return uint64(b[0]), nil
	case 16:
		return uint64(binary.BigEndian.Uint16(b)), nil
	case 32:
		return uint64(binary.BigEndian.Uint32(b)), nil
	case 64:
		return binary.BigEndian.Uint64(b), nil
	}
	// Smaller ones begin at the lowest bits of a byte.
	return uint64(b[0]>>(n%8)) & (1<<s.bits - 1), nil
}

// field is the place of the refcount of a cluster within its block, in bits.
func (s *stored) field(cluster int64) int64 { return cluster % s.perBlock * s.bits }

// set changes the refcount of a cluster in memory and gives the patch that does
// so in the file; ok is false where there is no room for it.
func (s *stored) set(cluster int64, count uint64) (p formats.Patch, ok bool, err error) {
	if s.bits < 64 && count>>s.bits != 0 {
		return p, false, nil
	}
	there, err := s.load(cluster)
	if err != nil || !there {
		return p, false, err
	}
	n := s.field(cluster)
	size := max(1, s.bits/8)
	b := s.block[n/8 : n/8+size]
	if s.bits < 8 {
		mask := byte(1<<s.bits-1) << (n % 8)
		b[0] = b[0]&^mask | byte(count)<<(n%8)
	} else {
		var word [8]byte
		binary.BigEndian.PutUint64(word[:], count)
		copy(b, word[8-size:])
	}
	// Several refcounts may share a byte: the last patch has what all of them do.
	return formats.Patch{Offset: int64(s.blocks[s.index]) + n/8, Bytes: append([]byte(nil), b...)}, true, nil
}

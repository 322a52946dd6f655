// Package sectormap answers which sectors of a block a differencing disk holds
// itself: VHD and VHDX keep a bit for each.
package sectormap

import "math/bits"

// Map has a bit for each sector of a block.
type Map struct {
	bytes []byte // the first sector is the highest bit of the first byte
	full  bool   // all are set
}

// New makes a map of bytes whose first sector is the highest bit of the first
// one, as VHD has it. The bytes are kept.
func New(b []byte) Map {
	m := Map{bytes: b, full: true}
	for _, c := range b {
		m.full = m.full && c == 0xFF
	}
	return m
}

// NewLowFirst is New for bytes whose first sector is the lowest bit of the first
// one, as VHDX has it. The bytes are turned round.
func NewLowFirst(b []byte) Map {
	for i, c := range b {
		b[i] = bits.Reverse8(c)
	}
	return New(b)
}

// Run counts how many of the n sectors from first on, at least one, are like the
// first; has says whether they are held.
func (m Map) Run(first, n int64) (count int64, has bool) {
	bit := func(i int64) bool { return m.bytes[i/8]&(0x80>>(i%8)) != 0 }
	if m.full {
		return n, true
	}
	has = bit(first)
	same := byte(0)
	if has {
		same = 0xFF
	}
	for count = 1; count < n; {
		i := first + count
		if i%8 == 0 && n-count >= 8 {
			if m.bytes[i/8] != same {
				x := m.bytes[i/8] ^ same
				return count + int64(bits.LeadingZeros8(x)), has
			}
			count += 8
			continue
		}
		if bit(i) != has {
			break
		}
		count++
	}
	return count, has
}

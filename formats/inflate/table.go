package inflate

import "math/bits"

// Symbols of the alphabets, RFC 1951 sections 3.2.5 and 3.2.7.
const (
	litSymbols  = 288
	distSymbols = 32
	preSymbols  = 19
	maxSymbols  = litSymbols + distSymbols
	endOfBlock  = 256
	maxBits     = 15
	maxPreBits  = 7
)

// A table is looked up with so many bits; codes that are longer have tables of
// their own behind it. The sizes are the largest that complete codes need, found
// by "enough", an example of zlib: enough 288 11 15 and enough 32 8 15.
const (
	litBits  = 11
	distBits = 8
	preBits  = maxPreBits
	litSize  = 2342
	distSize = 402
)

// entry is what a table says of the bits that come next. The lowest byte is how
// many bits to use up, extra bits included, the next one how many the code has,
// and the upper half is a literal, the base of a length or distance, or where
// the further table begins, whose number of bits is then in the second byte.
type entry uint32

const (
	codeShift  = 8
	valueShift = 16
	isLiteral  = 1 << 31
	isRare     = 1 << 15 // set with each of the next three
	isSub      = 1 << 14
	isEnd      = 1 << 13
	isBad      = 1 << 12
)

// bits is how many bits the entry stands for.
func (e entry) bits() uint { return uint(e & 0xFF) }

// value is the length or distance, with its extra bits.
func (e entry) value(bits uint64) int {
	extra := bits & (1<<(e&63) - 1) >> (e >> codeShift & 15)
	return int(e>>valueShift) + int(extra)
}

// sub is the place in the further table.
func (e entry) sub(bits uint64, root uint) uint64 {
	return uint64(e>>valueShift) + bits>>root&(1<<(e>>codeShift&15)-1)
}

// symbols are the entries of the symbols of each alphabet, without the bits of
// their codes.
type symbols struct {
	lit  [litSymbols]entry
	dist [distSymbols]entry
	pre  [preSymbols]entry
}

func (s *symbols) fill() {
	for i := range s.lit[:endOfBlock] {
		s.lit[i] = isLiteral | entry(i)<<valueShift
	}
	s.lit[endOfBlock] = isRare | isEnd
	base := 3
	for i := range 28 {
		extra := max(i/4-1, 0)
		s.lit[endOfBlock+1+i] = entry(base)<<valueShift | entry(extra)
		base += 1 << extra
	}
	s.lit[285] = 258 << valueShift
	s.lit[286], s.lit[287] = isRare|isBad, isRare|isBad
	base = 1
	for i := range 30 {
		extra := max(i/2-1, 0)
		s.dist[i] = entry(base)<<valueShift | entry(extra)
		base += 1 << extra
	}
	s.dist[30], s.dist[31] = isRare|isBad, isRare|isBad
	for i := range s.pre {
		s.pre[i] = entry(i) << valueShift
	}
}

// fixedTables makes the tables of section 3.2.6.
func (d *Decoder) fixedTables() error {
	if d.fixed {
		return nil
	}
	for i := range d.lens {
		switch {
		case i < 144:
			d.lens[i] = 8
		case i < 256:
			d.lens[i] = 9
		case i < 280:
			d.lens[i] = 7
		case i < litSymbols:
			d.lens[i] = 8
		default:
			d.lens[i] = 5
		}
	}
	d.fixed = true
	if err := d.build(d.lit[:], litBits, d.lens[:litSymbols], d.symbols.lit[:]); err != nil {
		return err
	}
	return d.build(d.dist[:], distBits, d.lens[litSymbols:], d.symbols.dist[:])
}

// preOrder is the order in which the lengths of the codes of code lengths come.
const preOrder = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"

// readTables reads the tables of a block, section 3.2.7.
func (d *Decoder) readTables() error {
	d.fixed = false
	head, err := d.take(14)
	if err != nil {
		return err
	}
	lits, dists, pres := int(head&31)+257, int(head>>5&31)+1, int(head>>10)+4
	if lits > 286 {
		return ErrData
	}
	var lens [preSymbols]uint8
	for _, i := range []byte(preOrder[:pres]) {
		v, err := d.take(3)
		if err != nil {
			return err
		}
		lens[i] = uint8(v)
	}
	if err := d.build(d.pre[:], preBits, lens[:], d.symbols.pre[:]); err != nil {
		return err
	}
	if err := d.readLengths(lits + dists); err != nil {
		return err
	}
	if d.lens[endOfBlock] == 0 {
		return ErrData
	}
	if err := d.build(d.lit[:], litBits, d.lens[:lits], d.symbols.lit[:]); err != nil {
		return err
	}
	return d.build(d.dist[:], distBits, d.lens[lits:lits+dists], d.symbols.dist[:])
}

// readLengths reads the lengths of n codes.
func (d *Decoder) readLengths(n int) error {
	for i := 0; i < n; {
		d.refill()
		e := d.pre[d.bits&(1<<preBits-1)]
		if e&isBad != 0 {
			return ErrData
		}
		if _, err := d.take(e.bits()); err != nil {
			return err
		}
		symbol, again, extra, least := uint8(e>>valueShift), uint8(0), uint(0), 1
		switch symbol {
		case 16:
			if i == 0 {
				return ErrData
			}
			again, extra, least = d.lens[i-1], 2, 3
		case 17:
			extra, least = 3, 3
		case 18:
			extra, least = 7, 11
		default:
			again = symbol
		}
		more, err := d.take(extra)
		if err != nil {
			return err
		}
		count := least + int(more)
		if count > n-i {
			return ErrData
		}
		for range count {
			d.lens[i] = again
			i++
		}
	}
	return nil
}

// build makes the table of the canonical code with these lengths (section
// 3.2.2). A code that leaves bits without meaning is only good with one symbol
// of one bit, or none.
func (d *Decoder) build(table []entry, root uint, lens []uint8, symbols []entry) error {
	var count [maxBits + 1]int
	for _, n := range lens {
		count[n]++
	}
	count[0] = 0
	var next [maxBits + 1]uint // codes
	left, longest := 1, uint(0)
	for n := uint(1); n <= maxBits; n++ {
		next[n] = (next[n-1] + uint(count[n-1])) << 1
		if left = left<<1 - count[n]; left < 0 {
			return ErrData
		}
		if count[n] > 0 {
			longest = n
		}
	}
	if left > 0 {
		if longest > 1 || root == preBits {
			return ErrData
		}
		for i := range 1 << root {
			table[i] = isRare | isBad | 1
		}
	}
	return fillTable(table, root, d.order(lens, count), lens, symbols, next, count)
}

// order sorts the symbols that have codes by the lengths of these.
func (d *Decoder) order(lens []uint8, count [maxBits + 1]int) []uint16 {
	var at [maxBits + 2]int
	for n := 1; n <= maxBits; n++ {
		at[n+1] = at[n] + count[n]
	}
	out := d.sorted[:at[maxBits+1]]
	for i, n := range lens {
		if n > 0 {
			out[at[n]] = uint16(i)
			at[n]++
		}
	}
	return out
}

func fillTable(table []entry, root uint, sorted []uint16, lens []uint8, symbols []entry, next [maxBits + 1]uint, count [maxBits + 1]int) error {
	end := uint(1) << root // of what is in use
	prefix, from, width := ^uint(0), uint(0), uint(0)
	for _, s := range sorted {
		n := uint(lens[s])
		code := bits.Reverse16(uint16(next[n])) >> (16 - n)
		next[n]++
		if n <= root {
			e := symbols[s] + entry(n)<<codeShift + entry(n)
			for i := uint(code); i < 1<<root; i += 1 << n {
				table[i] = e
			}
			count[n]--
			continue
		}
		low := uint(code) & (1<<root - 1)
		if low != prefix {
			prefix, from, width = low, end, n-root
			for used := count[n]; used < 1<<width; {
				width++
				used = used<<1 + count[root+width]
			}
			end += 1 << width
			if end > uint(len(table)) {
				return ErrData // a complete code always has room
			}
			table[low] = isRare | isSub | entry(width)<<codeShift | entry(from)<<valueShift
		}
		count[n]--
		e := symbols[s] + entry(n)<<codeShift + entry(n)
		for i := uint(code) >> root; i < 1<<width; i += 1 << (n - root) {
			table[from+i] = e
		}
	}
	return nil
}

package inflate

import "encoding/binary"

// Room that the fast loop needs: it reads eight bytes at a time, twice for one
// symbol; and writes up to three literals and a match of 258 bytes, in words.
const (
	fastInput  = 16
	fastOutput = 3 + 258 + 16
)

// fast decodes symbols as long as there is room at both ends. done says that
// the block is at its end.
func (d *Decoder) fast() (done bool, err error) {
	src, dst, in, out, bits, n := d.src, d.dst, d.in, d.out, d.bits, d.n
	lit, dist := &d.lit, &d.dist
	for len(src)-in >= fastInput && len(dst)-out >= fastOutput {
		bits |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
		in += int((63 - n) >> 3 & 7)
		n |= 56
		e := lit[bits&(1<<litBits-1)]
		if e&isLiteral != 0 {
			// Three of them take 33 bits at most.
			bits, n = bits>>(e&63), n-uint(e&0xFF)
			dst[out] = byte(e >> valueShift)
			out++
			if e = lit[bits&(1<<litBits-1)]; e&isLiteral != 0 {
				bits, n = bits>>(e&63), n-uint(e&0xFF)
				dst[out] = byte(e >> valueShift)
				out++
				if e = lit[bits&(1<<litBits-1)]; e&isLiteral != 0 {
					bits, n = bits>>(e&63), n-uint(e&0xFF)
					dst[out] = byte(e >> valueShift)
					out++
					continue
				}
			}
			// A match takes 48 bits at most.
			bits |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
			in += int((63 - n) >> 3 & 7)
			n |= 56
		}
		if e&isRare != 0 {
			if e&isSub != 0 {
				e = lit[e.sub(bits, litBits)]
			}
			if e&isBad != 0 {
				return false, ErrData
			}
			if e&isEnd != 0 {
				bits, n = bits>>(e&63), n-uint(e&0xFF)
				done, d.open = true, false
				break
			}
			if e&isLiteral != 0 {
				bits, n = bits>>(e&63), n-uint(e&0xFF)
				dst[out] = byte(e >> valueShift)
				out++
				continue
			}
		}
		length := e.value(bits)
		bits, n = bits>>(e&63), n-uint(e&0xFF)
		e = dist[bits&(1<<distBits-1)]
		if e&isRare != 0 {
			if e&isSub != 0 {
				e = dist[e.sub(bits, distBits)]
			}
			if e&isBad != 0 {
				return false, ErrData
			}
		}
		distance := e.value(bits)
		bits, n = bits>>(e&63), n-uint(e&0xFF)
		if distance > out {
			return false, ErrData
		}
		repeat(dst[out-distance:out+length+16], distance, length)
		out += length
	}
	d.in, d.out, d.bits, d.n = in, out, bits, n
	return done, nil
}

// repeat copies length bytes from the begin of p to distance, in words: it may
// write up to 15 bytes more.
func repeat(p []byte, distance, length int) {
	le := binary.LittleEndian
	switch {
	case distance >= 16:
		q := p[distance:]
		for i := 0; i < length; i += 16 {
			a, b := le.Uint64(p[i:]), le.Uint64(p[i+8:])
			le.PutUint64(q[i:], a)
			le.PutUint64(q[i+8:], b)
		}
	case distance >= 8:
		q := p[distance:]
		for i := 0; i < length; i += 8 {
			le.PutUint64(q[i:], le.Uint64(p[i:]))
		}
	case distance == 1:
		v, q := uint64(p[0])*0x0101010101010101, p[1:]
		for i := 0; i < length; i += 8 {
			le.PutUint64(q[i:], v)
		}
	default:
		for i := range length {
			p[distance+i] = p[i]
		}
	}
}

package overlay

import "sync"

// state is what the overlay knows of a block.
type state byte

// The states of a block. Absent must be 0: a new page is all absent.
const (
	absent state = 0 // the base answers
	own    state = 1 // the bytes lie in the overlay's file
	zero   state = 2 // reads as zeroes, whatever lies in the file
	// mixed is a state of chunks only: the page has the states of its blocks.
	mixed state = 3
)

// A chunk is the stretch of the disk that one page describes.
const (
	chunkBlocks = 4096
	chunkBytes  = chunkBlocks * BlockSize // 16 MiB
	pageBytes   = chunkBlocks / 4         // two bits a block
)

// page has the states of the blocks of a chunk, four in a byte, the first one
// in the lowest bits.
type page [pageBytes]byte

func (p *page) get(b int) state { return state(p[b/4] >> (b % 4 * 2) & 3) }

func (p *page) set(b int, s state) {
	shift := b % 4 * 2
	p[b/4] = p[b/4]&^(3<<shift) | byte(s)<<shift
}

// fill gives a page whose blocks are all in state s.
func fill(s state) *page {
	p := new(page)
	for i := range p {
		p[i] = fillByte(s)
	}
	return p
}

func fillByte(s state) byte { return byte(s) * 0x55 } // 0b01010101: the state four times

// chunk is a stretch of the disk: in one state throughout, or mixed with a page.
type chunk struct {
	state state
	page  *page // of a mixed one
}

// table has the states of all blocks. Chunks are guarded by the overlay's
// locks. At the very worst, every chunk mixed, it takes 64 MiB for each TiB
// of disk; untouched it takes 1 MiB.
type table struct {
	chunks []chunk
	blocks int64 // of the whole disk

	mu      sync.Mutex
	changed map[int64]struct{} // chunks that changed since they were last logged
}

func (t *table) init(size int64) {
	t.blocks = roundUp(size) / BlockSize
	t.chunks = make([]chunk, (size+chunkBytes-1)/chunkBytes)
	t.changed = make(map[int64]struct{})
}

// blocksIn is the number of blocks of chunk c; the last one may have fewer.
func (t *table) blocksIn(c int64) int { return int(min(chunkBlocks, t.blocks-c*chunkBlocks)) }

// run gives the state of block from of chunk c and the block before to where
// it changes, or to.
func (t *table) run(c int64, from, to int) (state, int) {
	ch := &t.chunks[c]
	if ch.state != mixed {
		return ch.state, to
	}
	s := ch.page.get(from)
	whole := fillByte(s)
	for b := from + 1; b < to; {
		if b%4 == 0 && ch.page[b/4] == whole {
			b += 4
			continue
		}
		if ch.page.get(b) != s {
			return s, b
		}
		b++
	}
	return s, to
}

// set puts blocks [from, to) of chunk c into state s.
func (t *table) set(c int64, from, to int, s state) {
	ch := &t.chunks[c]
	if now, end := t.run(c, from, to); now == s && end == to {
		return
	}
	if from == 0 && to == t.blocksIn(c) {
		ch.state, ch.page = s, nil
	} else {
		if ch.state != mixed {
			ch.state, ch.page = mixed, fill(ch.state)
		}
		for b := from; b < to; b++ {
			ch.page.set(b, s)
		}
		if now, end := t.run(c, 0, t.blocksIn(c)); end == t.blocksIn(c) {
			ch.state, ch.page = now, nil
		}
	}
	t.mu.Lock()
	t.changed[c] = struct{}{}
	t.mu.Unlock()
}

// takeChanged gives the chunks that changed since the last call.
func (t *table) takeChanged() map[int64]struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.changed
	t.changed = make(map[int64]struct{})
	return out
}

// block is the number within its chunk of the block that holds the byte at off.
func block(off int64) int { return int(off % chunkBytes / BlockSize) }

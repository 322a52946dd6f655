package convert

import "fmt"

// placer gives windows their places in the output, in guest order. It is used
// by one goroutine at a time.
//
// A window is cut into blocks. Where the target's unit fits into a window, a
// block is a unit. A larger one (VHD has 2 MiB, VHDX up to 256 MiB) is made of
// many windows: it gets its place with the first of them that holds something.
type placer struct {
	target      target
	size        int64 // of the disk
	unit, block int64

	guest, host int64 // of the unit that was placed last; guest is -1 before the first
	written     int64 // guest bytes that got a place
	end         int64 // where the last of them ends in the output
}

// newPlacer places into t. What is packed, is packed by the unit.
func newPlacer(t target, size int64, packs bool) *placer {
	p := &placer{target: t, size: size, unit: t.Unit(), block: t.Unit(), guest: -1}
	if !packs {
		p.block = min(p.block, windowBytes)
	}
	return p
}

// window is the size of a window, in whole blocks.
func (p *placer) window() int64 { return max(windowBytes/p.block, 1) * p.block }

// piece is a run of blocks of a window that are placed alike.
type piece struct {
	first, n int // blocks
	packed   int // bytes of the one block, compressed; 0 is as it is
}

// place gives the pieces of the window at start their places. emit, which may
// be nil, is told of each run of blocks that lies in one run in the file.
func (p *placer) place(start int64, pieces []piece, emit func(first, n int, host int64)) error {
	if emit == nil {
		emit = func(int, int, int64) {}
	}
	for _, x := range pieces {
		guest := start + int64(x.first)*p.block
		if x.packed > 0 {
			host, err := p.target.(packing).PlacePacked(guest, x.packed)
			if err != nil {
				return err
			}
			p.count(host, min(p.block, p.size-guest), int64(x.packed))
			emit(x.first, 1, host)
			continue
		}
		end := min(guest+int64(x.n)*p.block, p.size)
		for first := x.first; guest < end; {
			host, placed, err := p.run(guest, end-guest)
			if err != nil {
				return err
			}
			n := int((placed + p.block - 1) / p.block)
			emit(first, n, host)
			p.count(host, placed, placed)
			first, guest = first+n, guest+placed
		}
	}
	return nil
}

func (p *placer) count(host, guest, taken int64) {
	p.written += guest
	p.end = max(p.end, host+taken)
}

// run places what can be placed in one run of length bytes at guest.
func (p *placer) run(guest, length int64) (host, placed int64, err error) {
	if p.unit == p.block {
		host, placed, err = p.target.Place(guest, length)
	} else {
		host, placed, err = p.inUnit(guest, length)
	}
	if err == nil && (placed <= 0 || placed > length || placed < length && placed%p.block != 0) {
		err = fmt.Errorf("place %d bytes at guest offset %d: the format placed %d", length, guest, placed)
	}
	return host, placed, err
}

// inUnit places a part of a unit that is larger than a window.
func (p *placer) inUnit(guest, length int64) (host, placed int64, err error) {
	unit := guest - guest%p.unit
	whole := min(p.unit, p.size-unit)
	if unit != p.guest {
		host, placed, err := p.target.Place(unit, whole)
		if err != nil {
			return 0, 0, err
		}
		if placed != whole {
			return 0, 0, fmt.Errorf("place a unit of %d bytes at guest offset %d: the format placed %d", whole, unit, placed)
		}
		p.guest, p.host = unit, host
	}
	return p.host + guest - unit, min(length, unit+whole-guest), nil
}

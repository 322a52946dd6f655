package vhdx

import (
	"fmt"

	"hyper2kvm/formats"
)

const (
	// sectorsPerMap is what a sector bitmap block has bits for, 2.4.
	sectorsPerMap = 1 << 23
	mapSize       = sectorsPerMap / 8
)

// entry is an entry of the BAT, 2.5.1.
type entry uint64

// The states of a payload block, 2.5.1.1; a sector bitmap is notPresent or
// fullyPresent, 2.5.1.2.
const (
	notPresent       = 0
	undefined        = 1
	zero             = 2
	unmapped         = 3
	fullyPresent     = 6
	partiallyPresent = 7
)

func (e entry) state() int { return int(e & 7) }

// at is where the block lies. It is negative where the file cannot be so large.
func (e entry) at() int64 { return int64(e >> 20 << 20) }

// ReadAt implements formats.Disk.
func (img *Image) ReadAt(p []byte, off int64) (int, error) {
	return formats.ReadPlain(img, img.file.Name, p, off)
}

// Extent implements formats.Disk.
func (img *Image) Extent(offset, limit int64) (formats.Extent, error) {
	if offset < 0 || offset >= img.size || limit <= 0 {
		return formats.Extent{}, fmt.Errorf("extent of %s at %d, limit %d: outside of %d bytes", img.file.Name, offset, limit, img.size)
	}
	limit = min(limit, img.size-offset)
	block := offset / img.block
	e, err := img.entry(blockIndex(block, img.ratio))
	if err != nil {
		return formats.Extent{}, err
	}
	kind, err := img.kindOf(block, e)
	if err != nil {
		return formats.Extent{}, err
	}
	if kind != formats.Data {
		n, err := img.emptyRun(offset, limit, kind)
		return formats.Extent{Offset: offset, Length: n, Kind: kind}, err
	}
	return img.inBlock(offset, min(limit, img.block-offset%img.block), e)
}

// kindOf is what stands behind a payload block. What is undefined or unmapped
// reads as zeroes, as it may: that is the same in every run, and shows nobody
// what the disk held before.
func (img *Image) kindOf(block int64, e entry) (formats.Kind, error) {
	switch e.state() {
	case notPresent:
		if img.child {
			return formats.Absent, nil
		}
		return formats.Zero, nil
	case undefined, zero, unmapped:
		return formats.Zero, nil
	case partiallyPresent, fullyPresent:
		if e.at() < sectionSize || e.at() > maxFile {
			return 0, fmt.Errorf("%s: block %d at %d of the file: %w", img.file.Name, block, uint64(e.at()), formats.ErrCorrupt)
		}
		if e.state() == fullyPresent || img.child {
			return formats.Data, nil
		}
	}
	return 0, fmt.Errorf("%s: block %d is in state %d: %w", img.file.Name, block, e.state(), formats.ErrCorrupt)
}

// emptyRun is how far the blocks from offset on hold nothing of the same kind.
func (img *Image) emptyRun(offset, limit int64, kind formats.Kind) (int64, error) {
	block, bat := offset/img.block, cursor{Image: img}
	n := img.block - offset%img.block
	for visited := 0; n < limit && visited < blocksPerRun; visited++ {
		block++
		e, err := bat.at(blockIndex(block, img.ratio))
		if err != nil {
			return 0, err
		}
		if k, err := img.kindOf(block, e); err != nil || k != kind {
			break // an error is told when the run gets there
		}
		n += img.block
	}
	return min(n, limit), nil
}

// inBlock is the run at offset, which lies in the block of e.
func (img *Image) inBlock(offset, limit int64, e entry) (formats.Extent, error) {
	x := formats.Extent{Offset: offset, Length: limit, Kind: formats.Data}
	within := offset % img.block
	if e.state() == partiallyPresent {
		m, err := img.maps.Get(offset / img.block)
		if err != nil {
			return x, err
		}
		first, last := within/img.logical, (within+limit-1)/img.logical
		count, has := m.Run(first, last-first+1)
		x.Length = min((first+count)*img.logical-within, limit)
		if !has {
			x.Kind = formats.Absent
			return x, nil
		}
	}
	at := e.at() + within
	if at+x.Length > img.file.Size {
		return x, fmt.Errorf("%s: %d bytes of guest offset %d lie at %d of a file of %d bytes: %w",
			img.file.Name, x.Length, offset, at, img.file.Size, formats.ErrTruncated)
	}
	x.Plain = &formats.Location{File: img.plainFile(at, x.Length), Offset: at}
	return x, nil
}

package vhd

import (
	"fmt"

	"hyper2kvm/formats"
)

// ReadAt implements formats.Disk.
func (img *Image) ReadAt(p []byte, off int64) (int, error) {
	if img.fixed != nil {
		return img.fixed.ReadAt(p, off)
	}
	return formats.ReadPlain(img, img.file.Name, p, off)
}

// Extent implements formats.Disk.
func (img *Image) Extent(offset, limit int64) (formats.Extent, error) {
	if img.fixed != nil {
		return img.fixed.Extent(offset, limit)
	}
	if offset < 0 || offset >= img.size || limit <= 0 {
		return formats.Extent{}, fmt.Errorf("extent of %s at %d, limit %d: outside of %d bytes", img.file.Name, offset, limit, img.size)
	}
	limit = min(limit, img.size-offset)
	sector, err := img.entry(offset / img.block)
	if err != nil {
		return formats.Extent{}, err
	}
	if sector == unused {
		n, err := img.unusedRun(offset, limit)
		return formats.Extent{Offset: offset, Length: n, Kind: img.empty()}, err
	}
	return img.inBlock(offset, min(limit, img.block-offset%img.block), int64(sector))
}

// empty is what a sector without content is.
func (img *Image) empty() formats.Kind {
	if img.hasParent {
		return formats.Absent
	}
	return formats.Zero
}

// unusedRun is how far the blocks from offset on have no place.
func (img *Image) unusedRun(offset, limit int64) (int64, error) {
	block := offset / img.block
	n := img.block - offset%img.block
	for visited := 0; n < limit && visited < blocksPerRun; visited++ {
		block++
		sector, err := img.entry(block)
		if err != nil {
			return 0, err
		}
		if sector != unused {
			break
		}
		n += img.block
	}
	return min(n, limit), nil
}

// inBlock is the run at offset, which lies in the block that is at sector.
func (img *Image) inBlock(offset, limit, sector int64) (formats.Extent, error) {
	e := formats.Extent{Offset: offset, Kind: img.empty()}
	within := offset % img.block
	at := sector*sectorSize + img.bitmapBytes + within
	m, err := img.bitmaps.Get(sector)
	if err != nil {
		return e, err
	}
	first, last := within/sectorSize, (within+limit-1)/sectorSize
	count, has := m.Run(first, last-first+1)
	e.Length = min((first+count)*sectorSize-within, limit)
	if !has {
		return e, nil
	}
	if at+e.Length > img.file.Size {
		return e, fmt.Errorf("%s: %d bytes of guest offset %d lie at %d of a file of %d bytes: %w",
			img.file.Name, e.Length, offset, at, img.file.Size, formats.ErrTruncated)
	}
	e.Kind, e.Plain = formats.Data, &formats.Location{File: img.file.ReaderAt, Offset: at}
	return e, nil
}

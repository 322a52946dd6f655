// Package vhdx reads and writes the disk images of Hyper-V: fixed, dynamic and
// differencing VHDX, and AVHDX, which is a differencing VHDX by another name.
//
// The format is Microsoft's [MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format",
// of April 2024; sections named here are that document's.
package vhdx

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/blockcache"
	"hyper2kvm/formats/sectormap"
	"hyper2kvm/formats/winname"
)

// Bounds of what an opened image keeps in memory, and of what one call walks.
const (
	batEntries    = 4096 // entries of the BAT that are read at once
	cachedTables  = 64
	cachedBitmaps = 256
	blocksPerRun  = 1 << 16
	// maxFile is far more than any file has, and keeps sums of offsets in bounds.
	maxFile = 1 << 60
)

// Image is an opened VHDX.
type Image struct {
	raw  formats.File // as it lies there
	file formats.File // with what its log holds
	over *replayed    // nil when there is nothing in the log
	info formats.Info

	header
	regions   []region
	bat, meta region
	parameters
	blocks int64                            // payload blocks
	ratio  int64                            // payload blocks of a chunk, 2.4
	tables *blockcache.Cache[[]uint64]      // parts of the BAT, by number
	maps   *blockcache.Cache[sectormap.Map] // by payload block
}

// Open opens an image. Its parent, if it has one, is a claim in Info. Updates
// that its log holds are seen, and not written.
func Open(f formats.File, _ formats.Opener) (*Image, error) {
	img := &Image{raw: f, file: f}
	mark := make([]byte, len(signature))
	if err := formats.ReadFull(f, mark, 0); errors.Is(err, formats.ErrTruncated) || err == nil && string(mark) != signature {
		return nil, fmt.Errorf("%s: no VHDX signature: %w", f.Name, formats.ErrFormat)
	} else if err != nil {
		return nil, err
	}
	for _, step := range []func() error{img.findHeader, img.replay, img.findRegions, img.readMetadata, img.layOut, img.describe} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return img, nil
}

func (img *Image) warn(text string) { img.info.Warnings = append(img.info.Warnings, text) }

// layOut finds out how the BAT, 2.5, is to be read.
func (img *Image) layOut() error {
	img.blocks = (img.size + img.block - 1) / img.block
	img.ratio = sectorsPerMap * img.logical / img.block
	need := img.entries() * 8
	switch {
	case need > img.bat.length:
		return fmt.Errorf("%s: block allocation table of %d bytes, the disk needs %d: %w", img.file.Name, img.bat.length, need, formats.ErrCorrupt)
	case img.bat.at+need > img.file.Size:
		return fmt.Errorf("%s: block allocation table ends at %d of a file of %d bytes: %w",
			img.file.Name, img.bat.at+need, img.file.Size, formats.ErrTruncated)
	}
	img.tables = blockcache.New(cachedTables, img.loadTable)
	img.maps = blockcache.New(cachedBitmaps, img.loadMap)
	return nil
}

// entries is how many entries of the BAT count. Each chunk's payload blocks are
// followed by the entry of its sector bitmap, also where the last chunk has less
// of them; without a parent nothing is looked for behind the last block.
func (img *Image) entries() int64 {
	if img.blocks == 0 {
		return 0
	}
	if img.child {
		return mapIndex(img.blocks-1, img.ratio) + 1
	}
	return blockIndex(img.blocks-1, img.ratio) + 1
}

// blockIndex is the place of a payload block in the BAT.
func blockIndex(block, ratio int64) int64 { return block + block/ratio }

// mapIndex is the place of the sector bitmap of a payload block in the BAT.
func mapIndex(block, ratio int64) int64 { return block/ratio*(ratio+1) + ratio }

// describe fills Info.
func (img *Image) describe() error {
	i := &img.info
	i.Format, i.Variant, i.Size, i.Sector = "vhdx", "dynamic", img.size, img.logical
	i.ClusterSz, i.ID = img.block, img.dataWrite.String()
	add := func(name, format string, args ...any) {
		i.Fields = append(i.Fields, formats.Field{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	b := make([]byte, creatorSize)
	if err := formats.ReadFull(img.raw, b, int64(len(signature))); err != nil {
		return err
	}
	if creator := winname.UTF16(b, binary.LittleEndian); creator != "" {
		add("creator", "%s", creator)
	}
	add("virtual disk id", "%s", img.diskID)
	add("file write id", "%s", img.fileWrite)
	add("header", "sequence number %d", img.sequence)
	add("physical sector size", "%d", img.physical)
	add("log", "%d bytes at %d", img.logLength, img.logAt)
	add("block allocation table", "%d entries at %d", img.entries(), img.bat.at)
	if img.log != uuid.Nil {
		img.warn("the image was not closed: the updates in its log were replayed in memory; the file is left as it is")
	}
	if img.fixed {
		i.Variant = "fixed"
	}
	if !img.child {
		return nil
	}
	i.Variant = "differencing"
	var err error
	i.Parent, err = img.parent()
	return err
}

// Info implements formats.Image. Its ID is the data write GUID, by which a child
// knows its parent.
func (img *Image) Info() formats.Info { return img.info }

// Size implements formats.Disk.
func (img *Image) Size() int64 { return img.size }

// loadTable reads a part of the BAT.
func (img *Image) loadTable(part int64) ([]uint64, error) {
	n := min(batEntries, img.entries()-part*batEntries)
	b := make([]byte, n*8)
	if err := formats.ReadFull(img.file, b, img.bat.at+part*batEntries*8); err != nil {
		return nil, fmt.Errorf("block allocation table: %w", err)
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(b[i*8:])
	}
	return out, nil
}

// entry gives an entry of the BAT.
func (img *Image) entry(index int64) (entry, error) { return (&cursor{Image: img}).at(index) }

// cursor walks the BAT: it asks the cache once for each part of it.
type cursor struct {
	*Image
	part  int64
	table []uint64
}

func (c *cursor) at(index int64) (entry, error) {
	if part := index / batEntries; c.table == nil || part != c.part {
		t, err := c.tables.Get(part)
		if err != nil {
			return 0, err
		}
		c.part, c.table = part, t
	}
	return entry(c.table[index%batEntries]), nil
}

// loadMap reads which sectors a payload block has, 2.4.
func (img *Image) loadMap(block int64) (sectormap.Map, error) {
	e, err := img.entry(mapIndex(block, img.ratio))
	if err != nil {
		return sectormap.Map{}, err
	}
	if e.state() != fullyPresent || e.at() < sectionSize || e.at() > maxFile {
		return sectormap.Map{}, fmt.Errorf("%s: block %d is partly here, and has no sector bitmap: %w", img.file.Name, block, formats.ErrCorrupt)
	}
	b := make([]byte, img.block/img.logical/8)
	if err := formats.ReadFull(img.file, b, e.at()+block%img.ratio*int64(len(b))); err != nil {
		return sectormap.Map{}, fmt.Errorf("sector bitmap of block %d: %w", block, err)
	}
	return sectormap.NewLowFirst(b), nil
}

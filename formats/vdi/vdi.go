// Package vdi reads and writes the disk images of VirtualBox: dynamic, fixed
// and differencing VDI.
//
// The format has no specification but VirtualBox's source, VDICore.h of version
// 7.0, whose names of fields are used here: a header, a map with an entry for
// each block, and the blocks.
package vdi

import (
	"encoding/binary"
	"fmt"

	"hyper2kvm/formats"
	"hyper2kvm/formats/blockcache"
)

// Bounds of what an opened image keeps in memory, and of what one call walks.
const (
	tableEntries = 4096 // entries of the block map that are read at once
	cachedTables = 64
	blocksPerRun = 1 << 16
)

// Image is an opened VDI.
type Image struct {
	file formats.File
	info formats.Info
	header
	tables *blockcache.Cache[[]uint32] // parts of the block map, by number
}

// Open opens an image. Its parent, if it has one, is a claim in Info, and has no
// name: VirtualBox finds it in its registry of media, by its UUID.
func Open(f formats.File, _ formats.Opener) (*Image, error) {
	b := make([]byte, min(f.Size, headerEnd))
	if err := formats.ReadFull(f, b, 0); err != nil {
		return nil, err
	}
	h, err := parseHeader(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	if end := h.mapAt + h.blocks*4; end > f.Size {
		return nil, fmt.Errorf("%s: block map ends at %d of a file of %d bytes: %w", f.Name, end, f.Size, formats.ErrTruncated)
	}
	img := &Image{file: f, header: h}
	img.tables = blockcache.New(cachedTables, img.loadTable)
	img.describe()
	return img, nil
}

// describe fills Info.
func (img *Image) describe() {
	i := &img.info
	i.Format, i.Variant, i.Size, i.Sector = "vdi", img.kind.String(), img.size, sectorSize
	i.ClusterSz, i.ID, i.ContentID = img.block, img.create.String(), img.modify.String()
	if img.kind == kindDiff {
		i.Parent = &formats.Claim{Format: "vdi", ID: img.parent.String(), ContentID: img.parentModify.String()}
	}
	add := func(name, format string, args ...any) {
		i.Fields = append(i.Fields, formats.Field{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	add("version", "%d.%d", img.version>>16, img.version&0xFFFF)
	if img.text != "" {
		add("made by", "%s", img.text)
	}
	if img.comment != "" {
		add("comment", "%s", img.comment)
	}
	add("geometry", "%d cylinders, %d heads, %d sectors", img.cylinders, img.heads, img.perTrack)
	add("block map", "%d entries at %d", img.blocks, img.mapAt)
	add("blocks in use", "%d", img.allocated)
	add("first block", "at %d", img.dataAt)
	if img.extra > 0 {
		add("room before each block", "%d", img.extra)
	}
}

// Info implements formats.Image.
func (img *Image) Info() formats.Info { return img.info }

// Size implements formats.Disk.
func (img *Image) Size() int64 { return img.size }

// loadTable reads a part of the block map.
func (img *Image) loadTable(part int64) ([]uint32, error) {
	n := min(tableEntries, img.blocks-part*tableEntries)
	b := make([]byte, n*4)
	if err := formats.ReadFull(img.file, b, img.mapAt+part*tableEntries*4); err != nil {
		return nil, fmt.Errorf("block map: %w", err)
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(b[i*4:])
	}
	return out, nil
}

// entry gives the number of a guest's block in the file, or unused or zeroed.
func (img *Image) entry(block int64) (uint32, error) {
	t, err := img.tables.Get(block / tableEntries)
	if err != nil {
		return 0, err
	}
	return t[block%tableEntries], nil
}

// at is where the data of a block of the file begins.
func (img *Image) at(entry uint32) int64 {
	return img.dataAt + int64(entry)*(img.extra+img.block) + img.extra
}

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
	first, err := img.entry(offset / img.block)
	if err != nil {
		return formats.Extent{}, err
	}
	length, err := img.run(offset, limit, first)
	e := formats.Extent{Offset: offset, Length: length, Kind: img.kindOf(first)}
	if err != nil || e.Kind != formats.Data {
		return e, err
	}
	at := img.at(first) + offset%img.block
	if at+length > img.file.Size {
		return e, fmt.Errorf("%s: %d bytes of guest offset %d lie at %d of a file of %d bytes: %w",
			img.file.Name, length, offset, at, img.file.Size, formats.ErrTruncated)
	}
	e.Plain = &formats.Location{File: img.file.ReaderAt, Offset: at}
	return e, nil
}

// kindOf is what stands behind an entry.
func (img *Image) kindOf(entry uint32) formats.Kind {
	switch {
	case entry == unused && img.kind == kindDiff:
		return formats.Absent
	case entry == unused || entry == zeroed:
		return formats.Zero
	}
	return formats.Data
}

// run is how far the blocks from offset on, whose first has that entry, are of
// one kind, and follow each other in the file where they lie in it.
func (img *Image) run(offset, limit int64, first uint32) (int64, error) {
	block, kind := offset/img.block, img.kindOf(first)
	n := img.block - offset%img.block
	for visited := int64(1); n < limit && visited < blocksPerRun; visited++ {
		entry, err := img.entry(block + visited)
		if err != nil {
			return 0, err
		}
		if img.kindOf(entry) != kind || kind == formats.Data && !img.follows(first, entry, visited) {
			break
		}
		n += img.block
	}
	return min(n, limit), nil
}

// follows reports whether a block lies n blocks after another, all of them
// without a gap, and within the file: one that is cut off must not hide the
// whole ones before it.
func (img *Image) follows(first, entry uint32, n int64) bool {
	return img.extra == 0 && int64(entry) == int64(first)+n && img.at(entry)+img.block <= img.file.Size
}

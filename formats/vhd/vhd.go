// Package vhd reads and writes the disk images of Virtual PC, Hyper-V and Azure:
// fixed, dynamic and differencing VHD.
//
// The format is described in Microsoft's "Virtual Hard Disk Image Format
// Specification", version 1.0; sections named here are that document's.
package vhd

import (
	"encoding/binary"
	"fmt"
	"time"

	"hyper2kvm/formats"
	"hyper2kvm/formats/blockcache"
	"hyper2kvm/formats/raw"
	"hyper2kvm/formats/sectormap"
)

// Bounds of what an opened image keeps in memory, and of what one call walks.
const (
	tableEntries  = 4096 // entries of the BAT that are read at once
	cachedTables  = 64
	cachedBitmaps = 256
	blocksPerRun  = 1 << 16
)

// Image is an opened VHD.
type Image struct {
	file  formats.File
	info  formats.Info
	size  int64
	fixed *raw.Disk // nil for one with blocks

	dynamic
	footer
	bitmapBytes int64 // of a block, in whole sectors
	hasParent   bool
	tables      *blockcache.Cache[[]uint32]      // parts of the BAT, by number
	bitmaps     *blockcache.Cache[sectormap.Map] // by sector of the block
}

// Open opens an image. Its parent, if it has one, is a claim in Info.
func Open(f formats.File, _ formats.Opener) (*Image, error) {
	img := &Image{file: f}
	copied, err := img.findFooter()
	if err != nil {
		return nil, err
	}
	if !img.checksumGood {
		img.warn("the checksum of the footer is wrong")
	}
	if img.savedState {
		img.warn("the image was made while the guest was suspended: what was in its memory is not in it")
	}
	if img.size, err = img.footer.size(); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	switch img.diskType {
	case typeFixed:
		if copied {
			return nil, fmt.Errorf("%s: fixed disk without a footer at its end: %w", f.Name, formats.ErrTruncated)
		}
		img.fixed, err = raw.Section(f, 0, img.size)
	case typeDynamic, typeDifferencing:
		err = img.openDynamic()
	default:
		err = fmt.Errorf("%s: disk of type %d: %w", f.Name, img.diskType, formats.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	img.describe()
	return img, nil
}

func (img *Image) warn(text string) { img.info.Warnings = append(img.info.Warnings, text) }

// findFooter takes the footer at the end of the file, or, where that is missing
// or damaged, the copy at its begin that a disk with blocks has; copied says
// that only the latter is there.
func (img *Image) findFooter() (copied bool, err error) {
	last, ok, err := img.lastFooter()
	if err != nil || ok && last.checksumGood {
		img.footer = last
		return false, err
	}
	spare, spareOK, err := img.readFooter(0, sectorSize)
	switch {
	case err != nil:
		return false, err
	case !ok && !spareOK:
		return false, fmt.Errorf("%s: no footer: %w", img.file.Name, formats.ErrFormat)
	case !ok:
		img.warn("the footer at the end is missing; its copy at the begin is used: the file may have been cut off")
		img.footer = spare
		return true, nil
	case spareOK && spare.checksumGood:
		img.warn("the footer at the end is damaged; its copy at the begin is used")
		img.footer = spare
	default:
		img.footer = last
	}
	return false, nil
}

// lastFooter looks in the last sector. Virtual PC before 2004 wrote one byte
// less.
func (img *Image) lastFooter() (last footer, ok bool, err error) {
	for _, n := range []int64{sectorSize, sectorSize - 1} {
		if last, ok, err = img.readFooter(img.file.Size-n, n); ok || err != nil {
			break
		}
	}
	return last, ok, err
}

func (img *Image) readFooter(off, n int64) (footer, bool, error) {
	if off < 0 || n > img.file.Size-off {
		return footer{}, false, nil
	}
	b := make([]byte, n)
	if err := formats.ReadFull(img.file, b, off); err != nil {
		return footer{}, false, err
	}
	f, ok := parseFooter(b)
	return f, ok, nil
}

// openDynamic reads the header of an image with blocks.
func (img *Image) openDynamic() error {
	b := make([]byte, headerSize)
	if img.dataOffset > uint64(img.file.Size) {
		return fmt.Errorf("%s: dynamic disk header at offset %d of a file of %d bytes: %w", img.file.Name, img.dataOffset, img.file.Size, formats.ErrTruncated)
	}
	if err := formats.ReadFull(img.file, b, int64(img.dataOffset)); err != nil {
		return err
	}
	d, warnings, err := parseDynamic(b)
	if err != nil {
		return fmt.Errorf("%s: %w", img.file.Name, err)
	}
	img.dynamic = d
	img.info.Warnings = append(img.info.Warnings, warnings...)
	if need := (img.size + d.block - 1) / d.block; d.entries < need {
		return fmt.Errorf("%s: block allocation table of %d entries, the disk needs %d: %w", img.file.Name, d.entries, need, formats.ErrCorrupt)
	}
	img.entries = (img.size + d.block - 1) / d.block
	if end := d.table + img.entries*4; end > img.file.Size {
		return fmt.Errorf("%s: block allocation table ends at %d of a file of %d bytes: %w", img.file.Name, end, img.file.Size, formats.ErrTruncated)
	}
	img.bitmapBytes = (d.block/sectorSize/8 + sectorSize - 1) / sectorSize * sectorSize
	img.tables = blockcache.New(cachedTables, img.loadTable)
	img.bitmaps = blockcache.New(cachedBitmaps, img.loadBitmap)
	if img.diskType == typeDifferencing {
		img.hasParent = true
		var warnings []string
		img.info.Parent, warnings = d.parent(img.file)
		img.info.Warnings = append(img.info.Warnings, warnings...)
	}
	return nil
}

// describe fills Info.
func (img *Image) describe() {
	i := &img.info
	i.Format, i.Size, i.Sector, i.ID = "vhd", img.size, sectorSize, img.id.String()
	i.Variant = map[uint32]string{typeFixed: "fixed", typeDynamic: "dynamic", typeDifferencing: "differencing"}[img.diskType]
	add := func(name, format string, args ...any) {
		i.Fields = append(i.Fields, formats.Field{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	add("created", "%s", epoch.Add(time.Duration(img.timestamp)*time.Second).Format(time.RFC3339))
	add("creator", "%q version %d.%d on %q", img.creator, img.creatorVer>>16, img.creatorVer&0xFFFF, img.creatorOS)
	add("original size", "%d", img.originalSize)
	add("current size", "%d", img.currentSize)
	add("geometry", "%d cylinders, %d heads, %d sectors", img.cylinders, img.heads, img.perTrk)
	if img.fixed != nil {
		return
	}
	i.ClusterSz = img.block
	add("block allocation table", "%d entries at %d", img.entries, img.table)
	if img.hasParent {
		add("parent's name", "%s", img.parentName)
		add("parent's time of change", "%s", epoch.Add(time.Duration(img.parentTime)*time.Second).Format(time.RFC3339))
	}
}

// Info implements formats.Image.
func (img *Image) Info() formats.Info { return img.info }

// Size implements formats.Disk.
func (img *Image) Size() int64 { return img.size }

// loadTable reads a part of the BAT.
func (img *Image) loadTable(part int64) ([]uint32, error) {
	n := min(tableEntries, img.entries-part*tableEntries)
	b := make([]byte, n*4)
	if err := formats.ReadFull(img.file, b, img.table+part*tableEntries*4); err != nil {
		return nil, fmt.Errorf("block allocation table: %w", err)
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint32(b[i*4:])
	}
	return out, nil
}

// entry gives the sector of a block, unused where it has none.
func (img *Image) entry(block int64) (uint32, error) {
	t, err := img.tables.Get(block / tableEntries)
	if err != nil {
		return 0, err
	}
	return t[block%tableEntries], nil
}

// loadBitmap reads the bitmap in front of the block at sector.
func (img *Image) loadBitmap(sector int64) (sectormap.Map, error) {
	b := make([]byte, img.block/sectorSize/8)
	if err := formats.ReadFull(img.file, b, sector*sectorSize); err != nil {
		return sectormap.Map{}, fmt.Errorf("bitmap of a block: %w", err)
	}
	return sectormap.New(b), nil
}

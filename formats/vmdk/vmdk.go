// Package vmdk reads and writes VMware virtual disks: hosted sparse files
// (monolithicSparse, split), streamOptimized ones, ESX deltas (vmfsSparse and
// seSparse), and text descriptors of flat, zero and sparse extents.
//
// The source of the layouts is VMware's "Virtual Disk Format 5.0" technical
// note; section names in comments refer to it. It does not have seSparse, whose
// layout is known from what ESX writes and QEMU reads.
package vmdk

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"

	"hyper2kvm/formats"
	"hyper2kvm/formats/raw"
)

// sectorSize is the unit of all positions in a VMDK, in bytes.
const sectorSize = 512

// maxDiskSectors bounds the virtual size, so that no byte position overflows.
// It is 4 EiB, far above the 62 TiB that VMware allows.
const maxDiskSectors = 1 << 53

// Image is an opened VMDK.
type Image struct {
	info  formats.Info
	parts []part // in guest order, without gaps
	own   bool   // the one part lies in the image's first file
}

// part is a run of the guest's bytes that one extent gives.
type part struct {
	start, length int64 // bytes
	disk          disk
}

// disk is what an extent must do; it is never asked for bytes outside of the
// length its part has.
type disk interface {
	io.ReaderAt
	Extent(offset, limit int64) (formats.Extent, error)
}

// Open reads the header or descriptor of f. Extent files that a descriptor
// names are asked for through open, which may be nil where none are allowed.
// It gives formats.ErrFormat for what is not a VMDK.
func Open(f formats.File, open formats.Opener) (*Image, error) {
	var magic [4]byte
	if f.Size < int64(len(magic)) {
		return nil, fmt.Errorf("%s: %d bytes: %w", f.Name, f.Size, formats.ErrFormat)
	}
	if err := formats.ReadFull(f, magic[:], 0); err != nil {
		return nil, err
	}
	switch binary.LittleEndian.Uint32(magic[:]) {
	case sparseMagic:
		return openSparse(f, open)
	case cowdMagic:
		return nil, fmt.Errorf("%s is a delta of a snapshot (vmfsSparse) without its descriptor: %w", f.Name, formats.ErrPart)
	case seMagic:
		if isSE(f) {
			return nil, fmt.Errorf("%s is a delta of a snapshot (seSparse) without its descriptor: %w", f.Name, formats.ErrPart)
		}
	}
	desc, err := readDescriptorFile(f)
	if err != nil {
		return nil, err
	}
	return openDescriptor(f, desc, open)
}

// Info implements formats.Image.
func (m *Image) Info() formats.Info { return m.info }

// Size implements formats.Disk.
func (m *Image) Size() int64 { return m.info.Size }

// ReadAt implements formats.Disk.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read VMDK at negative offset %d", off)
	}
	if off >= m.info.Size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > m.info.Size-off {
		p, eof = p[:m.info.Size-off], io.EOF
	}
	done := 0
	for done < len(p) {
		pt := m.at(off + int64(done))
		in := off + int64(done) - pt.start
		n := int(min(int64(len(p)-done), pt.length-in))
		got, err := pt.disk.ReadAt(p[done:done+n], in)
		if got < n {
			return done + got, err
		}
		done += n
	}
	return done, eof
}

// Extent implements formats.Disk.
func (m *Image) Extent(offset, limit int64) (formats.Extent, error) {
	if offset < 0 || offset >= m.info.Size || limit <= 0 {
		return formats.Extent{}, fmt.Errorf("extent at %d, limit %d: outside of %d bytes", offset, limit, m.info.Size)
	}
	pt := m.at(offset)
	e, err := pt.disk.Extent(offset-pt.start, min(limit, pt.start+pt.length-offset))
	e.Offset = offset
	return e, err
}

// at finds the part that holds offset, which must lie within the disk.
func (m *Image) at(offset int64) *part {
	i := sort.Search(len(m.parts), func(i int) bool { return m.parts[i].start > offset })
	return &m.parts[i-1]
}

// openSparse opens a file that begins with a hosted sparse header.
func openSparse(f formats.File, open formats.Opener) (*Image, error) {
	h, err := readSparseHeader(f)
	if err != nil {
		return nil, err
	}
	desc, err := h.descriptor(f)
	if err != nil {
		return nil, err
	}
	m := &Image{}
	switch {
	case desc != nil && (h.capacity == 0 || len(desc.extents) > 1):
		// The file only carries the descriptor, or is the first extent as well.
		return openDescriptor(f, desc, open)
	case desc != nil:
		m.describe(desc)
	case h.compressed():
		// A stream is always a whole disk, whatever its maker left out.
		m.info.Warnings = append(m.info.Warnings, "the file has no descriptor")
	default:
		return nil, fmt.Errorf("%s is a sparse extent without descriptor: %w", f.Name, formats.ErrPart)
	}
	ext, err := newSparse(f, h, m.info.Parent != nil)
	if err != nil {
		return nil, err
	}
	m.info.Warnings = append(m.info.Warnings, ext.warnings...)
	m.info.Format, m.info.Sector = "vmdk", sectorSize
	m.info.Size, m.info.ClusterSz = ext.size, ext.grain
	if m.info.Variant == "" {
		m.info.Variant = h.variant()
	}
	m.info.Fields = append(m.info.Fields, h.fields()...)
	if h.uncleanShutdown {
		m.info.Warnings = append(m.info.Warnings, "the image was not closed cleanly")
	}
	m.parts, m.own = []part{{length: ext.size, disk: ext}}, true
	return m, nil
}

// describe takes over what a descriptor says of the whole disk.
func (m *Image) describe(d *descriptor) {
	m.info.Format, m.info.Sector = "vmdk", sectorSize
	m.info.Variant = d.value("createType")
	m.info.ID = normalID(d.value("CID"))
	m.info.ContentID = m.info.ID
	if parent := normalID(d.value("parentCID")); parent != "" && parent != noParent {
		m.info.Parent = &formats.Claim{
			Name: d.value("parentFileNameHint"), Format: "vmdk", ID: parent, ContentID: parent,
		}
	}
	m.info.Fields = append(m.info.Fields, d.fields()...)
}

// openDescriptor opens a disk whose extents lie in other files, or in f itself.
func openDescriptor(f formats.File, d *descriptor, open formats.Opener) (*Image, error) {
	m := &Image{}
	m.describe(d)
	if len(d.extents) == 0 {
		return nil, fmt.Errorf("%s: descriptor without extents: %w", f.Name, formats.ErrCorrupt)
	}
	hasParent := m.info.Parent != nil
	for _, x := range d.extents {
		p, err := openExtent(f, x, open, hasParent)
		if err != nil {
			return nil, fmt.Errorf("extent %q of %s: %w", x.name, f.Name, err)
		}
		p.start = m.info.Size
		if p.length > maxDiskSectors*sectorSize-p.start {
			return nil, fmt.Errorf("%s: extents of more than %d sectors: %w", f.Name, int64(maxDiskSectors), formats.ErrCorrupt)
		}
		m.info.Size += p.length
		if s, ok := p.disk.(*sparse); ok {
			m.info.ClusterSz = s.grain
			m.info.Warnings = append(m.info.Warnings, s.warnings...)
		}
		if p.length > 0 {
			m.parts = append(m.parts, p)
		}
	}
	return m, nil
}

// openExtent opens one extent that a descriptor lists.
func openExtent(self formats.File, x extentLine, open formats.Opener, hasParent bool) (part, error) {
	p := part{length: x.sectors * sectorSize}
	if x.access == "NOACCESS" {
		return p, fmt.Errorf("access NOACCESS: %w", formats.ErrUnsupported)
	}
	switch x.kind {
	case "ZERO":
		p.disk = zeroes{}
		return p, nil
	case "FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE":
	default:
		return p, fmt.Errorf("extent type %s: %w", x.kind, formats.ErrUnsupported)
	}
	if open == nil {
		return p, formats.ErrRefused
	}
	f, err := open(x.name)
	if err != nil {
		return p, err
	}
	switch x.kind {
	case "FLAT", "VMFS":
		p.disk, err = raw.Section(f, x.offset*sectorSize, p.length)
	case "SPARSE", "VMFSSPARSE", "SESPARSE":
		p.disk, err = openSparseExtent(f, p.length, hasParent)
	}
	return p, err
}

// openSparseExtent opens a sparse file that is one extent of a disk.
func openSparseExtent(f formats.File, length int64, hasParent bool) (*sparse, error) {
	var magic [4]byte
	if err := formats.ReadFull(f, magic[:], 0); err != nil {
		return nil, err
	}
	s, err := (*sparse)(nil), error(nil)
	switch binary.LittleEndian.Uint32(magic[:]) {
	case sparseMagic:
		s, err = openByHeader(f, readSparseHeader, hasParent)
	case cowdMagic:
		s, err = openByHeader(f, readCOWDHeader, hasParent)
	case seMagic:
		s, err = newSE(f, hasParent)
	default:
		return nil, fmt.Errorf("%s is not a sparse extent: %w", f.Name, formats.ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	if s.size < length {
		return nil, fmt.Errorf("%s holds %d bytes, the descriptor says %d: %w", f.Name, s.size, length, formats.ErrCorrupt)
	}
	return s, nil
}

func openByHeader(f formats.File, read func(formats.File) (*sparseHeader, error), hasParent bool) (*sparse, error) {
	h, err := read(f)
	if err != nil {
		return nil, err
	}
	return newSparse(f, h, hasParent)
}

// zeroes is a ZERO extent.
type zeroes struct{}

func (zeroes) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

func (zeroes) Extent(_, limit int64) (formats.Extent, error) {
	return formats.Extent{Length: limit, Kind: formats.Zero}, nil
}

package vhdx

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"hyper2kvm/formats"
	"hyper2kvm/formats/guid"
	"hyper2kvm/formats/winname"
)

// The known metadata items, 2.6.2.
const (
	itemFile     = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
	itemSize     = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
	itemDiskID   = "beca12ab-b2e6-4523-93ef-c309e000c746"
	itemLogical  = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
	itemPhysical = "cda348c7-445d-4471-9cc9-e9885251c556"
	itemParent   = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
)

// Flags of a metadata table's entry, 2.6.1.2, and of the file parameters, 2.6.2.1.
const (
	isUser        = 1 << 0
	isVirtualDisk = 1 << 1
	isRequired    = 1 << 2

	leaveAllocated = 1 << 0
	hasParent      = 1 << 1
)

const (
	metadataSignature = "metadata"
	metadataTable     = 64 << 10
	metadataHead      = 32
	maxItem           = 1 << 20

	minBlock = 1 << 20
	maxBlock = 256 << 20
	maxDisk  = 64 << 40
)

// parameters are what the metadata says of the disk.
type parameters struct {
	block             int64
	fixed, child      bool
	size              int64
	logical, physical int64
	diskID            string
	locator           []byte // the parent locator, nil where there is none
}

// readMetadata reads the metadata region, 2.6.
func (img *Image) readMetadata() error {
	items, err := img.items()
	if err != nil {
		return err
	}
	p, err := parseItems(items)
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", img.file.Name, err)
	}
	img.parameters = p
	return nil
}

// items reads the known metadata items.
func (img *Image) items() (map[string][]byte, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: metadata %s: %w", img.file.Name, fmt.Sprintf(format, args...), formats.ErrCorrupt)
	}
	if img.meta.length < metadataTable {
		return nil, bad("region of %d bytes", img.meta.length)
	}
	b, le := make([]byte, metadataTable), binary.LittleEndian
	if err := formats.ReadFull(img.file, b, img.meta.at); err != nil {
		return nil, err
	}
	n := int(le.Uint16(b[10:]))
	if string(b[:8]) != metadataSignature || n > maxEntries {
		return nil, bad("table of %d entries that begins with %q", n, b[:8])
	}
	known := []string{itemFile, itemSize, itemDiskID, itemLogical, itemPhysical, itemParent}
	out := make(map[string][]byte)
	for e := range slices.Chunk(b[metadataHead:metadataHead+n*tableEntry], tableEntry) {
		id, flags := guid.String(e), le.Uint32(e[24:])
		at, length := int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))
		if flags&isUser != 0 || !slices.Contains(known, id) {
			if flags&isRequired != 0 {
				return nil, fmt.Errorf("%s: metadata item %s, which has to be understood: %w", img.file.Name, id, formats.ErrUnsupported)
			}
			continue
		}
		if _, twice := out[id]; twice {
			return nil, bad("item %s is there twice", id)
		}
		if length > maxItem || length > 0 && (at < metadataTable || at+length > img.meta.length) {
			return nil, bad("item %s of %d bytes at %d of a region of %d", id, length, at, img.meta.length)
		}
		out[id] = make([]byte, length)
		if err := formats.ReadFull(img.file, out[id], img.meta.at+at); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// parseItems takes the values of the items.
func parseItems(items map[string][]byte) (parameters, error) {
	le := binary.LittleEndian
	for id, need := range map[string]int{itemFile: 8, itemSize: 8, itemLogical: 4} {
		if len(items[id]) < need {
			return parameters{}, fmt.Errorf("metadata item %s of %d bytes, or none: %w", id, len(items[id]), formats.ErrCorrupt)
		}
	}
	flags := le.Uint32(items[itemFile][4:])
	p := parameters{
		block: int64(le.Uint32(items[itemFile])), fixed: flags&leaveAllocated != 0, child: flags&hasParent != 0,
		size: int64(min(le.Uint64(items[itemSize]), maxFile)), logical: int64(le.Uint32(items[itemLogical])), locator: items[itemParent],
	}
	if b := items[itemPhysical]; len(b) >= 4 {
		p.physical = int64(le.Uint32(b))
	}
	if b := items[itemDiskID]; len(b) >= guid.Size {
		p.diskID = guid.String(b)
	}
	return p, nil
}

// check refuses what no disk can be.
func (p *parameters) check() error {
	switch {
	case p.logical != 512 && p.logical != 4096:
		return fmt.Errorf("sectors of %d bytes: %w", p.logical, formats.ErrCorrupt)
	case p.block < minBlock || p.block > maxBlock || p.block&(p.block-1) != 0:
		return fmt.Errorf("blocks of %d bytes: %w", p.block, formats.ErrCorrupt)
	case p.size > maxDisk || p.size%p.logical != 0:
		return fmt.Errorf("virtual size of %d bytes: %w", p.size, formats.ErrCorrupt)
	case p.child && p.locator == nil:
		return fmt.Errorf("differencing disk without parent locator: %w", formats.ErrCorrupt)
	}
	return nil
}

// locatorVHDX is the only type of parent locator that there is, 2.6.2.6.3.
const locatorVHDX = "b04aefb7-d19e-4a81-b789-25b8e9445913"

// parseLocator takes the keys and values of a parent locator, 2.6.2.6.
func parseLocator(b []byte) (map[string]string, error) {
	const head, entry = 20, 12
	le := binary.LittleEndian
	if len(b) < head {
		return nil, fmt.Errorf("parent locator of %d bytes: %w", len(b), formats.ErrCorrupt)
	}
	if id := guid.String(b); id != locatorVHDX {
		return nil, fmt.Errorf("parent locator of type %s: %w", id, formats.ErrUnsupported)
	}
	n := int(le.Uint16(b[18:]))
	if head+n*entry > len(b) {
		return nil, fmt.Errorf("parent locator of %d entries in %d bytes: %w", n, len(b), formats.ErrCorrupt)
	}
	out := make(map[string]string)
	for e := range slices.Chunk(b[head:head+n*entry], entry) {
		var text [2]string
		for i := range text {
			at, length := int64(le.Uint32(e[4*i:])), int64(le.Uint16(e[8+2*i:]))
			if at+length > int64(len(b)) {
				return nil, fmt.Errorf("parent locator: text of %d bytes at %d of %d: %w", length, at, len(b), formats.ErrCorrupt)
			}
			text[i] = winname.UTF16(b[at:at+length], le)
		}
		out[text[0]] = text[1]
	}
	return out, nil
}

// parent is the claim of a differencing disk. A relative name is taken before
// absolute ones, of which only the last part can mean anything here.
func (img *Image) parent() (*formats.Claim, error) {
	keys, err := parseLocator(img.locator)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", img.file.Name, err)
	}
	id, err := uuid.Parse(keys["parent_linkage"])
	if err != nil {
		return nil, fmt.Errorf("%s: parent_linkage %q: %w: %w", img.file.Name, keys["parent_linkage"], formats.ErrCorrupt, err)
	}
	c := &formats.Claim{Format: "vhdx", ID: id.String()}
	// While a child is merged into its parent the parent may have either id.
	if other, err := uuid.Parse(keys["parent_linkage2"]); err == nil && other != uuid.Nil {
		c.OtherID = other.String()
	}
	c.Name = winname.First(keys["relative_path"], keys["volume_path"], keys["absolute_win32_path"])
	for _, f := range []formats.Field{
		{Name: "parent's other id", Value: c.OtherID}, {Name: "parent's relative path", Value: keys["relative_path"]},
		{Name: "parent's volume path", Value: keys["volume_path"]}, {Name: "parent's absolute path", Value: keys["absolute_win32_path"]},
	} {
		if f.Value != "" {
			img.info.Fields = append(img.info.Fields, f)
		}
	}
	return c, nil
}

package vdi

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"

	"hyper2kvm/formats"
)

// Check implements formats.Checker. It takes a bit of memory for each block that
// the file has room for.
func (img *Image) Check(ctx context.Context, report func(formats.Problem) error) error {
	room := max(0, (img.file.Size-img.dataAt+img.extra+img.block-1)/(img.extra+img.block))
	seen := make([]uint64, (room+63)/64)
	used := int64(0)
	for block := range img.blocks {
		if block%tableEntries == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		entry, err := img.entry(block)
		if err != nil {
			return err
		}
		if entry == unused || entry == zeroed {
			continue
		}
		used++
		if p, bad := img.judge(block, entry, seen); bad {
			if err := report(p); err != nil {
				return err
			}
		}
	}
	return img.checkCounts(used, room, seen, report)
}

// judge looks at an entry, and notes its block as seen.
func (img *Image) judge(block int64, entry uint32, seen []uint64) (formats.Problem, bool) {
	p := formats.Problem{Offset: img.mapAt + block*4}
	// The last block may be cut off where the disk ends.
	if img.at(entry)+min(img.block, img.size-block*img.block) > img.file.Size {
		p.Kind = formats.BadReference
		p.Message = fmt.Sprintf("block %d lies at %d of a file of %d bytes", block, img.at(entry), img.file.Size)
		return p, true
	}
	word, bit := &seen[entry/64], uint64(1)<<(entry%64)
	if *word&bit != 0 {
		p.Kind = formats.Overlap
		p.Message = fmt.Sprintf("block %d lies at %d, as another one does", block, img.at(entry))
		return p, true
	}
	*word |= bit
	return p, false
}

// checkCounts looks at the header, and for room that belongs to nothing.
func (img *Image) checkCounts(used, room int64, seen []uint64, report func(formats.Problem) error) error {
	if end := img.mapAt + img.blocks*4; used > 0 && end > img.dataAt {
		err := report(formats.Problem{Kind: formats.Overlap, Offset: img.dataAt,
			Message: fmt.Sprintf("the block map ends at %d, after the first block begins", end)})
		if err != nil {
			return err
		}
	}
	if used != img.allocated {
		p := formats.Problem{Kind: formats.BadMetadata, Offset: 388, Harmless: true,
			Message: fmt.Sprintf("the header counts %d blocks in use, there are %d", img.allocated, used)}
		// VirtualBox appends new blocks after as many: less than there are would
		// make it write over others. So the number may grow, and never shrink.
		if used > img.allocated && used == room {
			p.Patches = []formats.Patch{{Offset: 388, Bytes: binary.LittleEndian.AppendUint32(nil, uint32(used))}}
		}
		if err := report(p); err != nil {
			return err
		}
	}
	found := int64(0)
	for _, w := range seen {
		found += int64(bits.OnesCount64(w))
	}
	if lost := room - found; lost > 0 {
		return report(formats.Problem{Kind: formats.Leak, Offset: img.dataAt, Harmless: true,
			Message: fmt.Sprintf("%d blocks of the file belong to no block of the disk", lost)})
	}
	return nil
}

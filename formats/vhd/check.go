package vhd

import (
	"context"
	"fmt"
	"slices"

	"hyper2kvm/formats"
)

// span is where a part of the file lies.
type span struct {
	start, end int64
	what       string
	block      int64 // guest block, -1 for metadata
}

// Check implements formats.Checker.
func (img *Image) Check(ctx context.Context, report func(formats.Problem) error) error {
	if err := img.checkFooter(report); err != nil || img.fixed != nil {
		return err
	}
	spans := []span{
		{0, sectorSize, "copy of the footer", -1},
		{int64(img.dataOffset), int64(img.dataOffset) + headerSize, "dynamic disk header", -1},
		{img.table, img.table + img.entries*4, "block allocation table", -1},
	}
	for block := range img.entries {
		if block%tableEntries == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		sector, err := img.entry(block)
		if err != nil {
			return err
		}
		if sector == unused {
			continue
		}
		s := span{int64(sector) * sectorSize, int64(sector)*sectorSize + img.bitmapBytes + img.block, "block", block}
		// The last block may be cut off where the disk ends.
		if s.start+img.bitmapBytes+min(img.block, img.size-block*img.block) > img.file.Size {
			err := report(formats.Problem{Kind: formats.BadReference, Offset: img.table + block*4,
				Message: fmt.Sprintf("block %d lies at %d of a file of %d bytes", block, s.start, img.file.Size)})
			if err != nil {
				return err
			}
			continue
		}
		spans = append(spans, s)
	}
	return img.checkSpans(spans, report)
}

// checkFooter looks at the two footers.
func (img *Image) checkFooter(report func(formats.Problem) error) error {
	last, ok, err := img.lastFooter()
	if err != nil {
		return err
	}
	if !ok || !last.checksumGood {
		p := formats.Problem{Kind: formats.BadMetadata, Offset: max(0, img.file.Size-sectorSize), Harmless: true, Message: "the footer at the end is missing or damaged"}
		if err := report(p); err != nil || img.fixed != nil {
			return err
		}
	}
	if img.fixed != nil {
		return nil
	}
	spare, spareOK, err := img.readFooter(0, sectorSize)
	if err != nil || spareOK && spare.checksumGood {
		return err
	}
	p := formats.Problem{Kind: formats.BadMetadata, Harmless: true, Message: "the copy of the footer at the begin is missing or damaged"}
	if b := make([]byte, sectorSize); ok && last.checksumGood && formats.ReadFull(img.file, b, img.file.Size-sectorSize) == nil {
		if _, whole := parseFooter(b); whole {
			p.Patches = []formats.Patch{{Offset: 0, Bytes: b}}
		}
	}
	return report(p)
}

// checkSpans finds parts that overlap, and room that belongs to nothing.
func (img *Image) checkSpans(spans []span, report func(formats.Problem) error) error {
	slices.SortFunc(spans, func(a, b span) int { return int(min(max(a.start-b.start, -1), 1)) })
	end, lost := int64(0), int64(0)
	var last span
	for _, s := range spans {
		if s.start < end {
			err := report(formats.Problem{Kind: formats.Overlap, Offset: s.start,
				Message: fmt.Sprintf("%s and %s overlap", last.name(), s.name())})
			if err != nil {
				return err
			}
		} else if s.start-end >= img.block {
			lost += s.start - end // less is alignment
		}
		if s.end > end {
			end, last = s.end, s
		}
	}
	if rest := img.file.Size - sectorSize - end; rest >= img.block {
		lost += rest
	}
	if lost == 0 {
		return nil
	}
	return report(formats.Problem{Kind: formats.Leak, Offset: end, Harmless: true, Message: fmt.Sprintf("%d bytes belong to no block", lost)})
}

func (s span) name() string {
	if s.block < 0 {
		return s.what
	}
	return fmt.Sprintf("block %d", s.block)
}

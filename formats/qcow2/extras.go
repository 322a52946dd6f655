package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"hyper2kvm/formats"
)

// maxListed is how many snapshots and how many bitmaps Info lists.
const maxListed = 64

// snapshot is an entry of the table of internal snapshots.
type snapshot struct {
	l1Offset uint64
	l1Size   uint32
	name     string // with its id in front
}

// bitmap is an entry of the directory of bitmaps.
type bitmap struct {
	tableOffset uint64
	tableSize   uint32 // entries
	flags       uint32
	granularity uint8 // bits
	name        string
}

// Flags of a bitmap.
const (
	bitmapInUse = 1 << 0 // was not saved by who wrote it last
	bitmapAuto  = 1 << 1 // is kept up to date
)

// listExtras puts internal snapshots and bitmaps into in. Damage there does not
// keep the disk from being read.
func (h *header) listExtras(f formats.File, in *formats.Info) {
	field := func(name, value string) { in.Fields = append(in.Fields, formats.Field{Name: name, Value: value}) }
	if h.snapshots > 0 {
		in.Extras = append(in.Extras, counted(h.snapshots, "internal snapshot"))
		field("snapshots", strconv.Itoa(int(h.snapshots)))
		_, err := h.eachSnapshot(f, min(h.snapshots, maxListed), func(i uint32, s snapshot) error {
			field("snapshot "+strconv.Itoa(int(i)+1), s.name)
			return nil
		})
		if err != nil {
			in.Warnings = append(in.Warnings, fmt.Sprintf("the table of internal snapshots cannot be read: %v", err))
		}
	}
	switch {
	case h.bitmaps == 0:
	case h.outdated:
		field("dirty bitmaps", "outdated, the disk was written by what does not know them")
	default:
		in.Extras = append(in.Extras, counted(h.bitmaps, "dirty bitmap"))
		field("dirty bitmaps", strconv.Itoa(int(h.bitmaps)))
		err := h.eachBitmap(f, min(h.bitmaps, maxListed), func(i uint32, b bitmap) error {
			field("dirty bitmap "+strconv.Itoa(int(i)+1), b.String())
			return nil
		})
		if err != nil {
			in.Warnings = append(in.Warnings, fmt.Sprintf("the directory of dirty bitmaps cannot be read: %v", err))
		}
	}
}

func counted(n uint32, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(int(n)) + " " + what + "s"
}

func (b bitmap) String() string {
	words := []string{b.name}
	if b.granularity < 63 {
		words = append(words, "granularity "+strconv.FormatInt(1<<b.granularity, 10))
	}
	if b.flags&bitmapAuto != 0 {
		words = append(words, "auto")
	}
	if b.flags&bitmapInUse != 0 {
		words = append(words, "in use, so not to be trusted")
	}
	return strings.Join(words, ", ")
}

// eachSnapshot gives the first n internal snapshots to visit, and where the last
// of them ends.
func (h *header) eachSnapshot(f formats.File, n uint32, visit func(i uint32, s snapshot) error) (end uint64, err error) {
	r := &records{f: f, at: h.snapshotsAt}
	for i := range n {
		var b [40]byte
		if err := r.read(b[:]); err != nil {
			return 0, err
		}
		be := binary.BigEndian
		idLen, nameLen, extraLen := int(be.Uint16(b[12:])), int(be.Uint16(b[14:])), be.Uint32(b[36:])
		if extraLen > 1024 {
			return 0, fmt.Errorf("extra data of %d bytes: %w", extraLen, formats.ErrCorrupt)
		}
		rest := make([]byte, int(extraLen)+idLen+nameLen)
		if err := r.read(rest); err != nil {
			return 0, err
		}
		r.pad()
		id, name := rest[extraLen:int(extraLen)+idLen], rest[int(extraLen)+idLen:]
		s := snapshot{l1Offset: be.Uint64(b[0:]), l1Size: be.Uint32(b[8:]), name: string(bytes.TrimSpace(id)) + " " + string(name)}
		if err := visit(i, s); err != nil {
			return 0, err
		}
	}
	return r.at, nil
}

// eachBitmap gives the first n bitmaps to visit.
func (h *header) eachBitmap(f formats.File, n uint32, visit func(i uint32, b bitmap) error) error {
	r := &records{f: f, at: h.bitmapsAt}
	for i := range n {
		var b [24]byte
		if err := r.read(b[:]); err != nil {
			return err
		}
		be := binary.BigEndian
		nameLen, extraLen := int(be.Uint16(b[18:])), be.Uint32(b[20:])
		if extraLen > 1024 {
			return fmt.Errorf("extra data of %d bytes: %w", extraLen, formats.ErrCorrupt)
		}
		rest := make([]byte, int(extraLen)+nameLen)
		if err := r.read(rest); err != nil {
			return err
		}
		r.pad()
		m := bitmap{tableOffset: be.Uint64(b[0:]), tableSize: be.Uint32(b[8:]), flags: be.Uint32(b[12:]), granularity: b[17],
			name: string(rest[extraLen:])}
		if err := visit(i, m); err != nil {
			return err
		}
	}
	return nil
}

// records reads entries that follow each other, each padded to 8 bytes.
type records struct {
	f  formats.File
	at uint64
}

func (r *records) read(p []byte) error {
	if r.at > 1<<62 {
		return fmt.Errorf("%s at offset %d: %w", r.f.Name, r.at, formats.ErrCorrupt)
	}
	at := int64(r.at)
	r.at += uint64(len(p))
	return formats.ReadFull(r.f, p, at)
}

func (r *records) pad() { r.at = (r.at + 7) &^ 7 }

package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"hyper2kvm/fixes/guest"
)

// maxLogical bounds the chain of extended boot records; Linux stops at 256
// partitions (DISK_MAX_PARTS).
const maxLogical = 256

// readMBR takes the four entries of sector 0 for a table only if they can be
// one: the boot sector of a FAT or NTFS that fills the disk ends in the same
// signature, with code where the entries would be.
func (t *Table) readMBR(r io.ReaderAt, mbr []byte, size, sector int64) error {
	used := 0
	for i := range 4 {
		e := entry(mbr, i)
		if e.status != 0 && e.status != 0x80 {
			return nil
		}
		if e.empty() {
			continue
		}
		if e.start == 0 && e.kind != 0xee || e.start*sector >= size {
			return nil
		}
		used++
	}
	if used == 0 {
		return nil
	}
	t.Kind = "dos"
	id := binary.LittleEndian.Uint32(mbr[diskID:])
	t.ID = fmt.Sprintf("%08x", id)
	var extended []mbrEntry
	for i := range 4 {
		e := entry(mbr, i)
		if e.empty() {
			continue
		}
		t.add(i+1, e, e.start, size, sector)
		if e.extended() {
			extended = append(extended, e)
		}
	}
	next := 5
	for _, e := range extended {
		var err error
		if next, err = t.readLogical(r, e, next, size, sector); err != nil {
			return err
		}
	}
	return nil
}

// add notes a partition that begins at the absolute sector start. One that
// reaches past the end is kept, cut, with a warning: so does Linux.
func (t *Table) add(number int, e mbrEntry, start, size, sector int64) {
	p := guest.Partition{
		Number: number, Start: start * sector, Size: e.count * sector,
		Type: fmt.Sprintf("0x%x", e.kind), UUID: fmt.Sprintf("%s-%02x", t.ID, number),
		Bootable: e.status == 0x80,
	}
	if p.Start+p.Size > size {
		t.warn("partition %d ends %d bytes past the end of the disk", number, p.Start+p.Size-size)
		p.Size = size - p.Start
	}
	t.Partitions = append(t.Partitions, p)
}

func (t *Table) warn(format string, args ...any) {
	t.Warnings = append(t.Warnings, fmt.Sprintf(format, args...))
}

// readLogical follows the chain of extended boot records. Data entries count
// from the record they stand in, links from the start of the first.
func (t *Table) readLogical(r io.ReaderAt, extended mbrEntry, number int, size, sector int64) (int, error) {
	first := extended.start
	here := first
	for range maxLogical {
		ebr, err := readAt(r, here*sector, mbrSize, size)
		if errors.Is(err, io.EOF) {
			t.warn("an extended boot record lies past the end of the disk")
			return number, nil
		}
		if err != nil {
			return number, fmt.Errorf("read extended boot record: %w", err)
		}
		if ebr[mbrSignature] != 0x55 || ebr[mbrSignature+1] != 0xaa {
			return number, nil
		}
		next := int64(-1)
		for i := range 4 {
			e := entry(ebr, i)
			switch {
			case e.empty():
			case e.extended():
				if next < 0 {
					next = first + e.start
				}
			case (here+e.start)*sector < size && number < maxLogical:
				t.add(number, e, here+e.start, size, sector)
				number++
			}
		}
		if next < 0 {
			return number, nil
		}
		here = next
	}
	t.warn("the chain of extended boot records does not end")
	return number, nil
}

package inspect

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/bits"
)

// libraryLevel reads which x86-64 level the guest's C library says that it needs;
// 0 is none. The dynamic linker compares it with the processor before any
// program runs, and stops.
func (f *finder) libraryLevel() int {
	for _, name := range []string{"lib64/libc.so.6", "usr/lib64/libc.so.6", "lib/x86_64-linux-gnu/libc.so.6", "usr/lib/libc.so.6"} {
		file, err := f.tree.Open(name)
		if err != nil {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(file, maxLibraryHead))
		_ = file.Close() // read only
		if err == nil {
			return isaNeeded(data)
		}
	}
	return 0
}

// maxLibraryHead is how much of the file is read: its notes follow the program
// headers.
const maxLibraryHead = 64 << 10

// Program headers of a 64-bit ELF file, and the note with the properties that
// the linkers of programs put in (System V ABI; "Linux Extensions to gABI").
const (
	programNote   = 4
	programHeader = 56
	noteProperty  = 5          // NT_GNU_PROPERTY_TYPE_0
	isaProperty   = 0xc0008002 // GNU_PROPERTY_X86_ISA_1_NEEDED, a bit for each level
)

// isaNeeded finds the property in the beginning of a program.
func isaNeeded(elf []byte) int {
	order := binary.LittleEndian
	if len(elf) < 64 || !bytes.HasPrefix(elf, []byte("\x7fELF\x02\x01")) {
		return 0
	}
	at, count := order.Uint64(elf[32:]), int(order.Uint16(elf[56:]))
	for i := range count {
		h := slice(elf, at+uint64(i)*programHeader, programHeader)
		if h == nil {
			return 0
		}
		if order.Uint32(h) == programNote {
			if level := isaInNotes(slice(elf, order.Uint64(h[8:]), order.Uint64(h[32:]))); level > 0 {
				return level
			}
		}
	}
	return 0
}

// slice is data[at:at+n], nil where that is not all there.
func slice(data []byte, at, n uint64) []byte {
	if at > uint64(len(data)) || n > uint64(len(data))-at {
		return nil
	}
	return data[at : at+n]
}

// isaInNotes looks through the notes of a segment. Sizes are those of what
// follows; it is filled up to eight bytes in a note of properties.
func isaInNotes(notes []byte) int {
	order := binary.LittleEndian
	for len(notes) >= 16 {
		name, size := uint64(order.Uint32(notes)), uint64(order.Uint32(notes[4:]))
		desc := slice(notes, 12+(name+3)&^3, size)
		if desc == nil {
			return 0
		}
		if order.Uint32(notes[8:]) == noteProperty && bytes.HasPrefix(notes[12:], []byte("GNU\x00")) {
			return isaInProperties(desc)
		}
		next := 12 + (name+3)&^3 + (size+3)&^3
		if next > uint64(len(notes)) {
			return 0
		}
		notes = notes[next:]
	}
	return 0
}

func isaInProperties(p []byte) int {
	order := binary.LittleEndian
	for len(p) >= 8 {
		kind, size := order.Uint32(p), uint64(order.Uint32(p[4:]))
		value := slice(p, 8, size)
		if value == nil {
			return 0
		}
		if kind == isaProperty && size == 4 {
			return bits.Len32(order.Uint32(value))
		}
		p = p[min(8+(size+7)&^7, uint64(len(p))):]
	}
	return 0
}

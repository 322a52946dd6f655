package buildimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// signatureMark ends a signed module (Linux, include/linux/module_signature.h).
// Before it stand twelve bytes that describe the signature, the last four its
// length, and before those the signature.
const (
	signatureMark = "~Module signature appended~\n"
	signatureInfo = 12
)

// slim takes from a module what costs time when it is loaded and is of no use
// here: the signature, which the kernel would check against a key that nobody
// asks for, and the type data, for which the kernel would first parse its own.
// What it does not understand it leaves alone.
func slim(module []byte) []byte {
	return withoutTypes(withoutSignature(module))
}

func withoutSignature(module []byte) []byte {
	body, signed := bytes.CutSuffix(module, []byte(signatureMark))
	if !signed || len(body) < signatureInfo {
		return module
	}
	size := int64(binary.BigEndian.Uint32(body[len(body)-4:]))
	end := int64(len(body)) - signatureInfo - size
	if end < 0 {
		return module
	}
	return body[:end]
}

// Offsets in a 64-bit ELF file (elf(5)).
const (
	elfSectionsAt  = 0x28
	elfSectionSize = 0x3a
	sectionName    = 0x00
	sectionFlags   = 0x08
	sectionHeader  = 64
)

// withoutTypes takes the name and the flags from the section ".BTF", so that
// the kernel neither finds nor loads it. The file is changed in place.
func withoutTypes(module []byte) []byte {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil || f.Class != elf.ELFCLASS64 || f.ByteOrder != binary.LittleEndian {
		return module
	}
	at := binary.LittleEndian.Uint64(module[elfSectionsAt:])
	if binary.LittleEndian.Uint16(module[elfSectionSize:]) != sectionHeader {
		return module
	}
	for i, s := range f.Sections {
		header := at + uint64(i)*sectionHeader
		if s.Name != ".BTF" || header+sectionHeader > uint64(len(module)) {
			continue
		}
		binary.LittleEndian.PutUint32(module[header+sectionName:], 0)
		binary.LittleEndian.PutUint64(module[header+sectionFlags:], 0)
	}
	return module
}

package distros

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// unifiedImage makes a unified kernel image (UAPI group specification "Unified
// Kernel Image") of lines:
//
//	uname K
//	cmdline root=UUID=…
//	osrel ID=arch\nVERSION_ID=1\n
//	signed                     with a table of certificates
//	initrd                     the lines after it are imageList's
func unifiedImage(t *testing.T, text string, kernels map[string]*kernelModules) []byte {
	t.Helper()
	p := &peBuilder{}
	head, initrd, _ := strings.Cut(text, "initrd\n")
	for l := range strings.Lines(head) {
		word, rest, _ := strings.Cut(strings.TrimRight(l, "\n"), " ")
		rest = strings.ReplaceAll(rest, `\n`, "\n")
		switch word {
		case "signed":
			p.signed = true
		case "uname":
			p.section(".uname", []byte(rest))
			p.section(".linux", kernelImage(rest))
		default:
			p.section("."+word, []byte(rest))
		}
	}
	p.section(".initrd", imageList(t, initrd, kernels))
	return p.finish()
}

type peBuilder struct {
	signed bool
	names  []string
	data   [][]byte
}

func (p *peBuilder) section(name string, data []byte) {
	p.names, p.data = append(p.names, name), append(p.data, data)
}

// The sizes of a PE32+ image for x86-64 (Microsoft, "PE Format").
const (
	peAlign    = 0x200
	peOptional = 240
	peHeader   = 0x40 + 4 + 20 + peOptional
)

func (p *peBuilder) finish() []byte {
	le := binary.LittleEndian
	h := make([]byte, peHeader)
	copy(h, "MZ")
	le.PutUint32(h[0x3c:], 0x40)
	copy(h[0x40:], "PE\x00\x00")
	le.PutUint16(h[0x44:], 0x8664)
	le.PutUint16(h[0x46:], uint16(len(p.names)))
	le.PutUint16(h[0x54:], peOptional)
	le.PutUint16(h[0x56:], 0x22e)
	optional := h[0x58:]
	le.PutUint16(optional, 0x20b)
	le.PutUint32(optional[32:], 0x1000)  // alignment of sections
	le.PutUint32(optional[36:], peAlign) // and in the file
	le.PutUint32(optional[108:], 16)     // directories
	at := (peHeader + 40*len(p.names) + peAlign - 1) / peAlign * peAlign
	var body bytes.Buffer
	address := uint32(0x1000)
	for i, data := range p.data {
		s := make([]byte, 40)
		copy(s, p.names[i])
		le.PutUint32(s[8:], uint32(len(data)))
		le.PutUint32(s[12:], address)
		size := (len(data) + peAlign - 1) / peAlign * peAlign
		le.PutUint32(s[16:], uint32(size))
		le.PutUint32(s[20:], uint32(at+body.Len()))
		le.PutUint32(s[36:], 0x40000040) // initialised data, readable
		h = append(h, s...)
		body.Write(data)
		body.Write(make([]byte, size-len(data)))
		address += (uint32(len(data)) + 0xfff) &^ 0xfff
	}
	le.PutUint32(h[0x58+56:], address)    // size of the image
	le.PutUint32(h[0x58+60:], uint32(at)) // size of the headers
	h = append(h, make([]byte, at-len(h))...)
	if p.signed {
		le.PutUint32(h[0x58+112+4*8:], uint32(at+body.Len()))
		le.PutUint32(h[0x58+112+4*8+4:], 16)
		body.Write([]byte{16, 0, 0, 0, 0, 2, 2, 0, 's', 'i', 'g', 'n', 'e', 'd', 0, 0})
	}
	return append(h, body.Bytes()...)
}

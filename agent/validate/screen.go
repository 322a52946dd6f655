package validate

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"os"
	"strings"
)

// A guest without a serial line writes on its screen. Firmware, boot loaders
// and Linux's console all draw the characters of the PC's own 8x16 font, each
// in its cell and exactly alike, so they can be looked up rather than guessed.
const (
	cellHeight = 16
	glyphs     = 256
)

// glyph is the bits of a cell, one byte a line, the highest bit leftmost.
type glyph [cellHeight]byte

// font finds the character for the bits of a cell.
type font map[glyph]byte

// linuxDraws lists the characters that Linux's framebuffer console draws
// otherwise than the VGA BIOS, as pictures of such consoles show them; it
// narrows letters that are meant for cells of 9 columns.
func linuxDraws() map[byte]glyph {
	return map[byte]glyph{
		'0': {0, 0, 0x38, 0x6c, 0xc6, 0xc6, 0xd6, 0xd6, 0xc6, 0xc6, 0x6c, 0x38},
		'M': {0, 0, 0xc6, 0xee, 0xfe, 0xfe, 0xd6, 0xc6, 0xc6, 0xc6, 0xc6, 0xc6},
		'T': {0, 0, 0x7e, 0x7e, 0x5a, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18, 0x3c},
		'V': {0, 0, 0xc6, 0xc6, 0xc6, 0xc6, 0xc6, 0xc6, 0xc6, 0x6c, 0x38, 0x10},
		'W': {0, 0, 0xc6, 0xc6, 0xc6, 0xc6, 0xd6, 0xd6, 0xd6, 0xfe, 0xee, 0x6c},
		'X': {0, 0, 0xc6, 0xc6, 0x6c, 0x7c, 0x38, 0x38, 0x7c, 0x6c, 0xc6, 0xc6},
		'Y': {0, 0, 0x66, 0x66, 0x66, 0x66, 0x3c, 0x18, 0x18, 0x18, 0x18, 0x3c},
		'Z': {0, 0, 0xfe, 0xc6, 0x86, 0x0c, 0x18, 0x30, 0x60, 0xc2, 0xc6, 0xfe},
		'`': {0, 0x30, 0x18, 0x0c},
		'f': {0, 0, 0x1c, 0x36, 0x32, 0x30, 0x78, 0x30, 0x30, 0x30, 0x30, 0x78},
		'm': {0, 0, 0, 0, 0, 0xec, 0xfe, 0xd6, 0xd6, 0xd6, 0xd6, 0xc6},
		'v': {0, 0, 0, 0, 0, 0xc6, 0xc6, 0xc6, 0xc6, 0xc6, 0x6c, 0x38},
		'w': {0, 0, 0, 0, 0, 0xc6, 0xc6, 0xd6, 0xd6, 0xd6, 0xfe, 0x6c},
		'x': {0, 0, 0, 0, 0, 0xc6, 0x6c, 0x38, 0x38, 0x38, 0x6c, 0xc6},
		'|': {0, 0, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18},
		'~': {0, 0x76, 0xdc},
	}
}

// vgaBIOSes are where distributions put the VGA BIOS that QEMU runs; the font
// is taken from it.
func vgaBIOSes() []string {
	return []string{
		"/usr/share/seabios/vgabios-stdvga.bin",
		"/usr/share/qemu/vgabios-stdvga.bin",
		"/usr/share/seavgabios/vgabios-stdvga.bin",
		"/usr/local/share/qemu/vgabios-stdvga.bin",
	}
}

var errNoFont = errors.New("no VGA BIOS with a font found")

// loadFont reads the font from the first VGA BIOS that is installed.
func loadFont(paths []string) (font, error) {
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read font: %w", err)
		}
		if f := findFont(data); f != nil {
			return f, nil
		}
	}
	return nil, errNoFont
}

// findFont finds the table of 256 glyphs by its beginning: nothing for code 0,
// and the smiling face of code 1.
func findFont(data []byte) font {
	start := append(make([]byte, cellHeight),
		0, 0, 0x7e, 0x81, 0xa5, 0x81, 0x81, 0xbd, 0x99, 0x81, 0x81, 0x7e, 0, 0, 0, 0)
	at := bytes.Index(data, start)
	if at < 0 || len(data)-at < glyphs*cellHeight {
		return nil
	}
	f := font{}
	for c := glyphs - 1; c >= 0; c-- { // of equal glyphs the lowest code stays
		var g glyph
		copy(g[:], data[at+c*cellHeight:])
		f[g] = byte(c)
	}
	for c, g := range linuxDraws() {
		f[g] = c
	}
	delete(f, glyph{})
	return f
}

// read gives the text on a picture of the screen; what is no character of the
// font becomes a blank.
func (f font) read(picture *image.RGBA) string {
	width := 8
	if picture.Rect.Dx() == 720 { // VGA's text mode draws 9 columns a cell
		width = 9
	}
	var b strings.Builder
	for y := 0; y+cellHeight <= picture.Rect.Dy(); y += cellHeight {
		var line strings.Builder
		for x := 0; x+width <= picture.Rect.Dx(); x += width {
			line.WriteByte(f.cell(picture, x, y))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// cell looks a cell up, dark on light as well as light on dark.
func (f font) cell(picture *image.RGBA, x0, y0 int) byte {
	var dots, inverse glyph
	at := func(x, y int) uint32 {
		p := picture.Pix[picture.PixOffset(x, y):]
		return uint32(p[0])<<16 | uint32(p[1])<<8 | uint32(p[2])
	}
	paper := at(x0, y0)
	for y := range cellHeight {
		for x := range 8 {
			if at(x0+x, y0+y) != paper {
				dots[y] |= 0x80 >> x
			}
		}
		inverse[y] = ^dots[y]
	}
	if dots == (glyph{}) {
		return ' '
	}
	for _, b := range []glyph{dots, inverse} {
		if c, ok := f[b]; ok {
			return printable(c)
		}
	}
	return ' '
}

func printable(c byte) byte {
	if c > ' ' && c < 0x7f {
		return c
	}
	return ' '
}

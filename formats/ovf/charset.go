package ovf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"hyper2kvm/formats"
)

// unmark removes a byte order mark, and turns UTF-16 that has one into UTF-8.
func unmark(text []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")):
		return text[3:]
	case bytes.HasPrefix(text, []byte("\xff\xfe")):
		order = binary.LittleEndian
	case bytes.HasPrefix(text, []byte("\xfe\xff")):
		order = binary.BigEndian
	default:
		return text
	}
	units := make([]uint16, 0, len(text)/2)
	for rest := text[2:]; len(rest) >= 2; rest = rest[2:] {
		units = append(units, order.Uint16(rest))
	}
	return []byte(string(utf16.Decode(units)))
}

// decode gives text in the named encoding as a string. Only the encodings of
// Western Europe are known beside Unicode; text in any other is taken where it
// is plain ASCII, which all that are in use agree on.
func decode(encoding string, text []byte) (string, error) {
	name := strings.ToLower(strings.TrimSpace(encoding))
	switch {
	case slices.Contains([]string{"", "utf-8", "utf8", "utf-16", "us-ascii", "ascii"}, name):
		if !utf8.Valid(text) {
			return "", fmt.Errorf("text is not %s: %w", "UTF-8", formats.ErrCorrupt)
		}
		return string(text), nil
	case slices.Contains([]string{"iso-8859-1", "latin1", "windows-1252", "cp1252"}, name):
		return latin(text), nil
	case !slices.ContainsFunc(text, func(b byte) bool { return b >= utf8.RuneSelf }):
		return string(text), nil
	}
	return "", fmt.Errorf("text in %q: %w", encoding, formats.ErrUnsupported)
}

// latin decodes windows-1252, of which ISO 8859-1 is the part that texts use.
func latin(text []byte) string {
	// What windows-1252 has at 0x80 to 0x9f; the holes stay control characters.
	const high = "€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ"
	table := []rune(high)
	var b strings.Builder
	for _, c := range text {
		if c >= 0x80 && c <= 0x9f {
			b.WriteRune(table[c-0x80])
			continue
		}
		b.WriteRune(rune(c))
	}
	return b.String()
}

// charsetReader is decode as encoding/xml takes it. The text is in memory and
// bounded.
func charsetReader(encoding string, r io.Reader) (io.Reader, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDescriptor))
	if err != nil {
		return nil, err
	}
	s, err := decode(encoding, text)
	if err != nil {
		return nil, err
	}
	return strings.NewReader(s), nil
}

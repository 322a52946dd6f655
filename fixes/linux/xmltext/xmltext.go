// Package xmltext edits the texts of XML elements where they stand (wicked's
// configuration): nothing is printed anew.
package xmltext

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"hyper2kvm/fixes/linux/splice"
)

// File is an XML file.
type File struct {
	data  []byte
	texts []*Text
}

// Text is what stands in an element that holds nothing but text.
type Text struct {
	// Path holds the names of the elements around it, outermost first.
	Path []string
	// Text is without the blanks around it; it may be changed.
	Text string

	old        string
	start, end int
}

// maxDepth bounds how deep elements are read; wicked's are eight deep or so.
const maxDepth = 64

// Parse reads a file. Only texts without an escape or a comment in them are
// listed.
func Parse(data []byte) (*File, error) {
	f := &File{data: data}
	d := xml.NewDecoder(bytes.NewReader(data))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	var path []string
	leaf := false // nothing but an opening tag stands before
	for {
		from := d.InputOffset()
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse XML: %w", err)
		}
		switch x := token.(type) {
		case xml.StartElement:
			if len(path) == maxDepth {
				return nil, fmt.Errorf("parse XML: elements are more than %d deep", maxDepth)
			}
			path, leaf = append(path, x.Name.Local), true
		case xml.EndElement:
			path, leaf = path[:len(path)-1], false
		case xml.CharData:
			if leaf {
				f.add(path, int(from), int(d.InputOffset()))
			}
			leaf = false
		default:
			leaf = false
		}
	}
}

func (f *File) add(path []string, start, end int) {
	raw := string(f.data[start:end])
	text := strings.TrimSpace(raw)
	if text == "" || strings.ContainsAny(text, "&<>") || !bytes.HasPrefix(f.data[end:], []byte("</")) {
		return
	}
	start += strings.Index(raw, text)
	f.texts = append(f.texts, &Text{Path: append([]string(nil), path...), Text: text, old: text, start: start, end: start + len(text)})
}

// Texts lists the texts in the order of the file.
func (f *File) Texts() []*Text { return f.texts }

// Bytes gives the file as it stands now.
func (f *File) Bytes() []byte {
	out := splice.New(f.data)
	for _, t := range f.texts {
		if t.Text != t.old {
			var b strings.Builder
			_ = xml.EscapeText(&b, []byte(t.Text)) // a Builder takes all
			out.Replace(t.start, t.end, b.String())
		}
	}
	return out.Bytes()
}

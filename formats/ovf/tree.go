package ovf

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"hyper2kvm/formats"
)

// Bounds of a descriptor. Real ones have some 10 KiB; a product with all its
// licences in all languages comes to a few MiB.
const (
	maxDescriptor = 16 << 20 // bytes
	maxDepth      = 64       // elements inside one another
	maxElements   = 200_000
)

// element is an element of the document. Names are local ones: the namespaces
// changed with every version, and their prefixes with every program.
type element struct {
	name  string
	attrs []xml.Attr
	text  []byte // before its first child
	under []*element
}

// attr is the value of an attribute, "" for none.
func (e *element) attr(name string) string {
	for _, a := range e.attrs {
		if a.Name.Local == name && a.Name.Space != "xmlns" {
			return strings.TrimSpace(a.Value)
		}
	}
	return ""
}

// kind is what the element is. In version 0.9 all sections have one name, and a
// type: <Section xsi:type="ovf:DiskSection_Type">.
func (e *element) kind() string {
	if e.name != "Section" && e.name != "Content" {
		return e.name
	}
	t := e.attr("type")
	t = t[strings.LastIndexByte(t, ':')+1:]
	if t = strings.TrimSuffix(t, "_Type"); t == "" {
		return e.name
	}
	return t
}

// all lists the children of a kind.
func (e *element) all(kind string) []*element {
	var out []*element
	for _, c := range e.under {
		if c.kind() == kind {
			out = append(out, c)
		}
	}
	return out
}

// child is the first child of a kind, an empty element where there is none.
func (e *element) child(kind string) *element {
	for _, c := range e.under {
		if c.kind() == kind {
			return c
		}
	}
	return &element{}
}

// get is the text of the first child of that name, case ignored: InstanceId
// became InstanceID.
func (e *element) get(name string) string {
	for _, c := range e.under {
		if strings.EqualFold(c.name, name) {
			return string(bytes.TrimSpace(c.text))
		}
	}
	return ""
}

// parseTree reads a document. It knows no entities but those of XML itself, and
// refuses a document type, which is where others are declared.
func parseTree(text []byte) (*element, error) {
	if len(text) > maxDescriptor {
		return nil, fmt.Errorf("descriptor of %d bytes, at most %d: %w", len(text), maxDescriptor, formats.ErrUnsupported)
	}
	text = unmark(text)
	dec := xml.NewDecoder(bytes.NewReader(text))
	dec.CharsetReader = func(name string, r io.Reader) (io.Reader, error) {
		if strings.HasPrefix(strings.ToLower(name), "utf-16") {
			return r, nil // it had a mark, and is UTF-8 by now
		}
		return charsetReader(name, r)
	}
	root := &element{}
	stack := []*element{root}
	for count := 0; ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, xmlError(root, dec, err)
		}
		switch t := token.(type) {
		case xml.Directive:
			return nil, fmt.Errorf("line %d: document type declaration: %w", line(dec), formats.ErrUnsupported)
		case xml.StartElement:
			if count++; count > maxElements || len(stack) > maxDepth {
				return nil, fmt.Errorf("line %d: more than %d elements, or deeper than %d: %w", line(dec), maxElements, maxDepth, formats.ErrUnsupported)
			}
			e := &element{name: t.Name.Local, attrs: t.Copy().Attr}
			top := stack[len(stack)-1]
			top.under = append(top.under, e)
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			top := stack[len(stack)-1]
			if len(top.under) == 0 {
				top.text = append(top.text, t...)
			}
		}
	}
	if len(root.under) != 1 {
		return nil, fmt.Errorf("no XML document: %w", formats.ErrFormat)
	}
	return root.under[0], nil
}

// xmlError judges what the decoder could not read: before the first element it
// was no XML, afterwards it is damaged, or cut off.
func xmlError(root *element, dec *xml.Decoder, err error) error {
	kind := formats.ErrCorrupt
	syntax, ok := errors.AsType[*xml.SyntaxError](err)
	switch {
	case errors.Is(err, formats.ErrUnsupported), errors.Is(err, formats.ErrCorrupt):
		return fmt.Errorf("line %d: %w", line(dec), err)
	case len(root.under) == 0:
		kind = formats.ErrFormat
	case ok && syntax.Msg == "unexpected EOF":
		kind = formats.ErrTruncated
	}
	if ok {
		return fmt.Errorf("%w: %w", err, kind) // has the line
	}
	return fmt.Errorf("line %d: %w: %w", line(dec), err, kind)
}

func line(dec *xml.Decoder) int {
	n, _ := dec.InputPos()
	return n
}

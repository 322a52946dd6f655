// Package netplan edits the values of netplan's YAML files that pick a network
// card, where they stand: nothing is printed anew, so that comments, order,
// quotes, anchors and blanks of everything else stay.
package netplan

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"hyper2kvm/fixes/linux/splice"
)

// File is one of netplan's files. Netplan merges all of them by name of the
// file, key by key; see Merge.
type File struct {
	data    []byte
	lines   []int // where each line begins
	devices []*Device
}

// Device is one entry below "ethernets:", "bonds:" and so on, as one file has
// it (netplan reference, "Properties for physical device types").
type Device struct {
	Kind, ID string
	// Matched is true where the entry has a match: of its own, so that ID is no
	// interface's name.
	Matched bool
	// MAC, Name and Drivers are what match: asks for; nil where it does not.
	MAC, Name *Value
	Drivers   []*Value
	SetName   *Value
	// Members are the ids that a bond, bridge or VLAN is built of.
	Members []string
}

// Value is one scalar of the file.
type Value struct {
	// Text may be changed.
	Text string

	old   string
	node  *yaml.Node
	item  bool // of a list
	flow  bool // the list is [in, brackets]
	after []string
}

// InList reports whether v is an item of a list.
func (v *Value) InList() bool { return v.item }

// After adds an item to the list that v is an item of, behind it. It must be in
// one.
func (v *Value) After(text string) { v.after = append(v.after, text) }

// Parse reads a file.
func Parse(data []byte) (*File, error) {
	f := &File{data: data, lines: []int{0}}
	for i, c := range data {
		if c == '\n' {
			f.lines = append(f.lines, i+1)
		}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("parse netplan file: %w", err)
	}
	if len(doc.Content) == 0 {
		return f, nil
	}
	network := child(doc.Content[0], "network")
	for _, kind := range []string{"ethernets", "wifis", "modems", "bonds", "bridges", "vlans", "tunnels", "vrfs", "dummy-devices", "virtual-ethernets"} {
		each(child(network, kind), func(id string, n *yaml.Node) { f.devices = append(f.devices, device(kind, id, n)) })
	}
	return f, nil
}

func device(kind, id string, n *yaml.Node) *Device {
	d := &Device{Kind: kind, ID: id, SetName: value(child(n, "set-name"))}
	if match := child(n, "match"); match != nil {
		d.Matched = true
		d.MAC, d.Name = value(child(match, "macaddress")), value(child(match, "name"))
		d.Drivers = values(child(match, "driver"))
	}
	for _, v := range append(values(child(n, "interfaces")), values(child(n, "link"))...) {
		d.Members = append(d.Members, v.Text)
	}
	return d
}

// maxAlias bounds how many aliases are followed one after the other.
const maxAlias = 8

func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < maxAlias; i++ {
		n = n.Alias
	}
	return n
}

// each passes the entries of a map to yield.
func each(n *yaml.Node, yield func(string, *yaml.Node)) {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		yield(n.Content[i].Value, resolve(n.Content[i+1]))
	}
}

// child gives the last value of key in a map, nil where there is none.
func child(n *yaml.Node, key string) (out *yaml.Node) {
	each(n, func(k string, v *yaml.Node) {
		if k == key {
			out = v
		}
	})
	return out
}

func value(n *yaml.Node) *Value {
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return nil
	}
	return &Value{Text: n.Value, old: n.Value, node: n}
}

// values gives a scalar, or each of a list.
func values(n *yaml.Node) []*Value {
	if v := value(n); v != nil {
		return []*Value{v}
	}
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	var out []*Value
	for _, item := range n.Content {
		if v := value(resolve(item)); v != nil {
			v.item, v.flow = true, n.Style&yaml.FlowStyle != 0
			out = append(out, v)
		}
	}
	return out
}

// Devices lists the entries, those of one kind in the order of the file.
func (f *File) Devices() []*Device { return f.devices }

// ErrPlace says that a value does not stand in the file as it reads, because of
// a tag, an escape or a line break in it, so that it cannot be replaced.
var ErrPlace = errors.New("value is written in a way that is not edited")

// Bytes gives the file as it stands now. It is the same bytes where nothing was
// changed.
func (f *File) Bytes() ([]byte, error) {
	out := splice.New(f.data)
	for _, d := range f.devices {
		for _, v := range append(slices.Clone(d.Drivers), d.MAC, d.Name, d.SetName) {
			if v == nil || v.Text == v.old && len(v.after) == 0 {
				continue
			}
			if err := f.put(out, v); err != nil {
				return nil, fmt.Errorf("change %q of %s: %w", v.old, d.ID, err)
			}
		}
	}
	now := out.Bytes()
	var doc yaml.Node
	if err := yaml.Unmarshal(now, &doc); err != nil && !bytes.Equal(now, f.data) {
		return nil, fmt.Errorf("read the changed file back: %w", err)
	}
	return now, nil
}

func (f *File) put(out *splice.Text, v *Value) error {
	start, end, quote, ok := f.find(v)
	if !ok {
		return ErrPlace
	}
	with := quote
	if quote == "" && strings.ContainsAny(v.Text, "[]{}*,#&") {
		with = `"` // or it would not be plain text
	}
	text := with + v.Text + with
	for _, item := range v.after {
		if v.flow {
			text += ", " + quote + item + quote
			continue
		}
		text += "\n" + f.dash(start) + quote + item + quote
	}
	if !out.Replace(start, end, text) {
		return ErrPlace // an alias: one text for two values
	}
	return nil
}

// dash is what stands before the item of a list that begins at start, on its
// line.
func (f *File) dash(start int) string {
	line := f.data[bytes.LastIndexByte(f.data[:start], '\n')+1 : start]
	indent := len(line) - len(bytes.TrimLeft(line, " "))
	return string(line[:indent]) + "- "
}

// find gives the bytes of a scalar, quotes and all.
func (f *File) find(v *Value) (start, end int, quote string, ok bool) {
	if v.node.Line < 1 || v.node.Line > len(f.lines) {
		return 0, 0, "", false
	}
	start = f.lines[v.node.Line-1]
	for range v.node.Column - 1 { // columns count characters
		if start >= len(f.data) {
			return 0, 0, "", false
		}
		_, size := utf8.DecodeRune(f.data[start:])
		start += size
	}
	rest := f.data[min(start, len(f.data)):]
	if len(rest) > 0 && rest[0] == '&' { // an anchor stands before its value
		skip := bytes.IndexAny(rest, " \t")
		if skip < 0 {
			return 0, 0, "", false
		}
		skip += len(rest[skip:]) - len(bytes.TrimLeft(rest[skip:], " \t"))
		start, rest = start+skip, rest[skip:]
	}
	if len(rest) > 0 && (rest[0] == '"' || rest[0] == '\'') {
		quote = string(rest[:1])
	}
	raw := quote + v.old + quote
	if v.old == "" || !bytes.HasPrefix(rest, []byte(raw)) || strings.ContainsAny(v.Text, "\"'\\\n") {
		return 0, 0, "", false
	}
	return start, start + len(raw), quote, true
}

// Merge combines the devices of all files, in the order in which netplan reads
// them, to one of each id: a later file's values go over an earlier one's.
func Merge(files []*File) []Device {
	var out []Device
	for _, f := range files {
		for _, d := range f.devices {
			i := slices.IndexFunc(out, func(o Device) bool { return o.ID == d.ID && o.Kind == d.Kind })
			if i < 0 {
				out = append(out, *d)
				continue
			}
			out[i].over(d)
		}
	}
	return out
}

func (d *Device) over(later *Device) {
	d.Matched = d.Matched || later.Matched
	if later.MAC != nil {
		d.MAC = later.MAC
	}
	if later.Name != nil {
		d.Name = later.Name
	}
	if later.SetName != nil {
		d.SetName = later.SetName
	}
	d.Drivers = append(slices.Clone(d.Drivers), later.Drivers...)
	d.Members = append(slices.Clone(d.Members), later.Members...)
}

// Interface is the interface's name that the entry gives to a card, or expects
// of it; "" where it takes any.
func (d *Device) Interface() string {
	switch {
	case d.SetName != nil:
		return d.SetName.Text
	case !d.Matched:
		return d.ID
	case d.Name != nil:
		return d.Name.Text
	}
	return ""
}

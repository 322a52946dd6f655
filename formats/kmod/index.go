package kmod

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"hyper2kvm/formats"
)

// The binary index: a trie, children before parents, all numbers big endian.
// The upper bits of a node's offset say what the node has (libkmod,
// libkmod-index.h: "Integers are stored as 32 bit unsigned in network order").
const (
	indexMagic   = 0xB007F457
	indexVersion = 0x00020001

	nodePrefix   = 0x80000000
	nodeValues   = 0x40000000
	nodeChildren = 0x20000000
	nodeOffset   = 0x0fffffff

	childMax = 128 // keys are ASCII
)

// Entry is a value of a binary index. The lowest Priority is found first.
type Entry struct {
	Key, Value string
	Priority   uint32
}

type node struct {
	prefix   string
	children map[byte]*node
	values   []Entry
}

// WriteIndex writes a binary index, byte for byte what depmod of kmod 30 writes
// for the same entries in the same order.
func WriteIndex(entries []Entry) ([]byte, error) {
	root := &node{children: map[byte]*node{}}
	for _, e := range entries {
		if i := strings.IndexFunc(e.Key, func(r rune) bool { return r == 0 || r >= childMax }); i >= 0 {
			return nil, fmt.Errorf("write module index: %w: key %q", formats.ErrUnsupported, e.Key)
		}
		if strings.IndexByte(e.Value, 0) >= 0 {
			return nil, fmt.Errorf("write module index: %w: value %q", formats.ErrUnsupported, e.Value)
		}
		root.insert(e)
	}
	var b bytes.Buffer
	b.Write(binary.BigEndian.AppendUint32(nil, indexMagic))
	b.Write(binary.BigEndian.AppendUint32(nil, indexVersion))
	b.Write(make([]byte, 4))
	at := root.write(&b)
	if b.Len() > nodeOffset {
		return nil, fmt.Errorf("write module index: %w: %d bytes", formats.ErrUnsupported, b.Len())
	}
	out := b.Bytes()
	binary.BigEndian.PutUint32(out[8:], at)
	return out, nil
}

func (n *node) insert(e Entry) {
	key := e.Key
	for {
		same := 0
		for same < len(n.prefix) && same < len(key) && n.prefix[same] == key[same] {
			same++
		}
		if same < len(n.prefix) {
			below := *n
			below.prefix = n.prefix[same+1:]
			*n = node{prefix: n.prefix[:same], children: map[byte]*node{n.prefix[same]: &below}}
		}
		key = key[same:]
		if key == "" {
			n.add(e)
			return
		}
		next := n.children[key[0]]
		if next == nil {
			next = &node{prefix: key[1:], children: map[byte]*node{}}
			next.add(e)
			n.children[key[0]] = next
			return
		}
		n, key = next, key[1:]
	}
}

// add puts a value before those of the same priority, as depmod does.
func (n *node) add(e Entry) {
	at := slices.IndexFunc(n.values, func(v Entry) bool { return v.Priority >= e.Priority })
	if at < 0 {
		at = len(n.values)
	}
	n.values = slices.Insert(n.values, at, e)
}

// write writes the children and then the node, and returns where with what.
func (n *node) write(b *bytes.Buffer) uint32 {
	var offsets []byte
	first, last := childMax, -1
	for c := range n.children {
		first, last = min(first, int(c)), max(last, int(c))
	}
	for c := first; c <= last; c++ {
		at := uint32(0)
		if child := n.children[byte(c)]; child != nil {
			at = child.write(b)
		}
		offsets = binary.BigEndian.AppendUint32(offsets, at)
	}
	at := uint32(b.Len())
	if n.prefix != "" {
		b.WriteString(n.prefix)
		b.WriteByte(0)
		at |= nodePrefix
	}
	if last >= 0 {
		b.WriteByte(byte(first))
		b.WriteByte(byte(last))
		b.Write(offsets)
		at |= nodeChildren
	}
	if len(n.values) > 0 {
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(n.values))))
		for _, v := range n.values {
			b.Write(binary.BigEndian.AppendUint32(nil, v.Priority))
			b.WriteString(v.Value)
			b.WriteByte(0)
		}
		at |= nodeValues
	}
	return at
}

// maxEntries bounds what a hostile index can cost: nodes may point at one
// another.
const maxEntries = 1 << 20

// ParseIndex reads a binary index: its entries, sorted by key.
func ParseIndex(data []byte) ([]Entry, error) {
	p := &indexParser{data: data}
	if len(data) < 12 || binary.BigEndian.Uint32(data) != indexMagic {
		return nil, fmt.Errorf("read module index: %w", formats.ErrFormat)
	}
	if v := binary.BigEndian.Uint32(data[4:]); v != indexVersion {
		return nil, fmt.Errorf("read module index: %w: version %#x", formats.ErrUnsupported, v)
	}
	if err := p.node(binary.BigEndian.Uint32(data[8:]), "", 0); err != nil {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	return p.out, nil
}

type indexParser struct {
	data  []byte
	out   []Entry
	nodes int
}

func (p *indexParser) corrupt(at int) error {
	return fmt.Errorf("%w: node at %d", formats.ErrCorrupt, at)
}

func (p *indexParser) node(offset uint32, key string, depth int) error {
	at := int(offset & nodeOffset)
	if p.nodes++; p.nodes > maxEntries || depth > 4096 || len(key) > maxName {
		return p.corrupt(at)
	}
	if offset&nodePrefix != 0 {
		prefix, next, ok := p.text(at)
		if !ok {
			return p.corrupt(at)
		}
		key, at = key+prefix, next
	}
	var first, last, kids int
	if offset&nodeChildren != 0 {
		if at+2 > len(p.data) {
			return p.corrupt(at)
		}
		first, last = int(p.data[at]), int(p.data[at+1])
		at, kids = at+2, at+2
		if at += 4 * (last - first + 1); first > last || last >= childMax || at > len(p.data) {
			return p.corrupt(at)
		}
	}
	if offset&nodeValues != 0 {
		if err := p.values(at, key); err != nil {
			return err
		}
	}
	if kids == 0 {
		return nil
	}
	for c := first; c <= last; c++ {
		child := binary.BigEndian.Uint32(p.data[kids+4*(c-first):])
		if child == 0 {
			continue
		}
		if err := p.node(child, key+string(rune(c)), depth+1); err != nil {
			return err
		}
	}
	return nil
}

const maxName = 64 << 10 // bytes of a key

func (p *indexParser) values(at int, key string) error {
	if at+4 > len(p.data) {
		return p.corrupt(at)
	}
	count := binary.BigEndian.Uint32(p.data[at:])
	at += 4
	for range count {
		if at+4 > len(p.data) || len(p.out) >= maxEntries {
			return p.corrupt(at)
		}
		priority := binary.BigEndian.Uint32(p.data[at:])
		value, next, ok := p.text(at + 4)
		if !ok {
			return p.corrupt(at)
		}
		p.out = append(p.out, Entry{key, value, priority})
		at = next
	}
	return nil
}

// text reads up to a zero byte.
func (p *indexParser) text(at int) (text string, next int, ok bool) {
	if at > len(p.data) {
		return "", 0, false
	}
	end := bytes.IndexByte(p.data[at:], 0)
	if end < 0 {
		return "", 0, false
	}
	return string(p.data[at : at+end]), at + end + 1, true
}

package vmdk

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"hyper2kvm/formats"
)

// maxDescriptorBytes bounds a descriptor. A 62 TiB disk in 2 GB pieces takes
// some 2 MB of extent lines.
const maxDescriptorBytes = 4 << 20

// noParent is the parentCID of a disk that stands alone.
const noParent = "ffffffff"

// descriptor is the text that describes a disk.
type descriptor struct {
	keys    []formats.Field // in file order
	extents []extentLine
}

// extentLine is one line of the extent section.
type extentLine struct {
	access  string // RW, RDONLY, NOACCESS
	sectors int64
	kind    string // FLAT, SPARSE, ZERO, VMFS, VMFSSPARSE, …
	name    string // as written; "" for ZERO
	offset  int64  // sectors into the file, for FLAT
}

// value returns the value of the first key of that name, case ignored.
func (d *descriptor) value(name string) string {
	for _, k := range d.keys {
		if strings.EqualFold(k.Name, name) {
			return k.Value
		}
	}
	return ""
}

// fields lists the disk data base and other keys that Info has no place for.
func (d *descriptor) fields() []formats.Field {
	var out []formats.Field
	for _, k := range d.keys {
		switch strings.ToLower(k.Name) {
		case "version", "cid", "parentcid", "createtype", "parentfilenamehint":
		default:
			out = append(out, k)
		}
	}
	return out
}

// readDescriptorFile reads f as a descriptor in a file of its own.
func readDescriptorFile(f formats.File) (*descriptor, error) {
	head := make([]byte, min(f.Size, 4096))
	if err := formats.ReadFull(f, head, 0); err != nil {
		return nil, err
	}
	if !looksLikeDescriptor(head) {
		return nil, fmt.Errorf("%s: neither VMDK header nor descriptor: %w", f.Name, formats.ErrFormat)
	}
	if f.Size > maxDescriptorBytes {
		return nil, fmt.Errorf("%s: descriptor of %d bytes: %w", f.Name, f.Size, formats.ErrCorrupt)
	}
	text := make([]byte, f.Size)
	if err := formats.ReadFull(f, text, 0); err != nil {
		return nil, err
	}
	d, err := parseDescriptor(text)
	if err != nil {
		return nil, fmt.Errorf("descriptor %s: %w", f.Name, err)
	}
	return d, nil
}

// looksLikeDescriptor tells a descriptor by its first lines: comments and
// blank ones, one of which is the title, or the version right away.
func looksLikeDescriptor(head []byte) bool {
	head = bytes.TrimPrefix(head, []byte("\xef\xbb\xbf"))
	for line := range bytes.Lines(head) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0:
		case bytes.EqualFold(line, []byte("# Disk DescriptorFile")):
			return true
		case line[0] == '#':
		default:
			key, _, ok := bytes.Cut(line, []byte("="))
			return ok && bytes.EqualFold(bytes.TrimSpace(key), []byte("version"))
		}
	}
	return false
}

// parseDescriptor reads the text up to the first NUL, with which an embedded
// descriptor is padded.
func parseDescriptor(text []byte) (*descriptor, error) {
	text, _, _ = bytes.Cut(text, []byte{0})
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	d := &descriptor{}
	number := 0
	for raw := range bytes.Lines(text) {
		number++
		line := strings.TrimSpace(string(raw))
		if line == "" || line[0] == '#' {
			continue
		}
		if x, ok, err := parseExtentLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		} else if ok {
			d.extents = append(d.extents, x)
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d: %.60q is neither key nor extent: %w", number, line, formats.ErrCorrupt)
		}
		d.keys = append(d.keys, formats.Field{
			Name: strings.TrimSpace(key), Value: unquote(strings.TrimSpace(value)),
		})
	}
	if d.value("encryptionKeys") != "" || strings.Contains(d.value("ddb.iofilters"), "vmwarevmcrypt") {
		return nil, fmt.Errorf("encrypted by vSphere: %w", formats.ErrUnsupported)
	}
	return d, nil
}

// parseExtentLine reads `RW 4192256 SPARSE "disk-s001.vmdk" [offset]`; ok is
// false for a line that is no extent at all.
func parseExtentLine(line string) (x extentLine, ok bool, err error) {
	access, rest := cutField(line)
	switch access {
	case "RW", "RDONLY", "NOACCESS":
	default:
		return x, false, nil
	}
	if strings.HasPrefix(rest, "=") {
		return x, false, nil
	}
	corrupt := func(what string) (extentLine, bool, error) {
		return x, true, fmt.Errorf("extent %.80q: %s: %w", line, what, formats.ErrCorrupt)
	}
	x.access = access
	size, rest := cutField(rest)
	if x.sectors, err = strconv.ParseInt(size, 10, 64); err != nil || x.sectors < 0 || x.sectors > maxDiskSectors {
		return corrupt("size")
	}
	kind, rest := cutField(rest)
	x.kind = strings.ToUpper(kind)
	if x.kind == "ZERO" {
		return x, true, nil
	}
	if !strings.HasPrefix(rest, `"`) {
		return corrupt("no file name in quotes")
	}
	name, rest, found := strings.Cut(rest[1:], `"`)
	if !found || name == "" {
		return corrupt("file name")
	}
	x.name = name
	// Device extents carry more words after the offset; they are not needed.
	if at, _ := cutField(strings.TrimSpace(rest)); at != "" {
		if x.offset, err = strconv.ParseInt(at, 10, 64); err != nil || x.offset < 0 || x.offset > maxDiskSectors {
			return corrupt("offset")
		}
	}
	return x, true, nil
}

func cutField(s string) (field, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// normalID gives a CID as eight hexadecimal digits, "" for what is none.
func normalID(s string) string {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 16, 32)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%08x", n)
}

package ovf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/formats"
)

// Bounds of what a descriptor may list.
const (
	maxFiles = 4096
	maxDisks = 1024 // of one machine; VMware allows 256
	maxCPUs  = 4096
	// maxParents is how long a chain of parents may be; VMware allows 32.
	maxParents = 64
	// maxName is how long a name of ours may be, in bytes.
	maxName = 255
)

// Envelope is an OVF descriptor.
type Envelope struct {
	Version  string    `json:"version"` // of the format, as far as it shows: "0.9", "1", "2"
	Machines []Machine `json:"machines"`
	// Files are all files that the descriptor refers to.
	Files []File `json:"files,omitempty"`
}

// Parse reads an OVF descriptor. What is no XML with an Envelope at its root
// gives formats.ErrFormat.
func Parse(text []byte) (*Envelope, error) {
	root, err := parseTree(text)
	if err != nil {
		return nil, fmt.Errorf("read OVF descriptor: %w", err)
	}
	if root.name != "Envelope" {
		return nil, fmt.Errorf("XML document with <%s>, not an OVF descriptor: %w", printable(root.name), formats.ErrFormat)
	}
	r := &reader{root: root, properties: map[string]string{}, files: map[string]File{}, disks: map[string]diskElement{}}
	env, err := r.read()
	if err != nil {
		return nil, fmt.Errorf("read OVF descriptor: %w", err)
	}
	return env, nil
}

// reader holds what machines refer to.
type reader struct {
	root       *element
	config     string            // the deployment configuration that is taken
	properties map[string]string // by key
	files      map[string]File
	disks      map[string]diskElement
	order      []string // ids of disks as written
	warnings   []string // that concern each machine
}

// diskElement is a <Disk> of the disk section.
type diskElement struct {
	Disk
	fileRef, parentRef string
}

func (r *reader) read() (*Envelope, error) {
	env := &Envelope{Version: r.version()}
	r.config = r.configuration()
	r.readProperties(r.root)
	for _, refs := range r.root.all("References") {
		for _, f := range refs.all("File") {
			file := fileOf(f)
			if _, twice := r.files[file.ID]; twice || len(env.Files) >= maxFiles {
				return nil, fmt.Errorf("file %q is there twice, or there are more than %d: %w", file.ID, maxFiles, formats.ErrCorrupt)
			}
			r.files[file.ID] = file
			env.Files = append(env.Files, file)
		}
	}
	for _, s := range r.root.all("DiskSection") {
		if err := r.readDisks(s); err != nil {
			return nil, err
		}
	}
	for _, s := range r.systems(r.root, nil) {
		m, err := r.machine(s)
		if err != nil {
			return nil, fmt.Errorf("machine %q: %w", s.attr("id"), err)
		}
		env.Machines = append(env.Machines, *m)
	}
	if len(env.Machines) == 0 {
		return nil, fmt.Errorf("no virtual machine in it: %w", formats.ErrUnsupported)
	}
	if len(env.Machines) == 1 {
		r.adopt(&env.Machines[0])
		env.Machines[0].bound()
	}
	return env, nil
}

// version tells the versions apart by the namespace of the root.
func (r *reader) version() string {
	for _, a := range r.root.attrs {
		switch v := strings.TrimSuffix(a.Value, "/"); {
		case strings.HasSuffix(v, "schemas.dmtf.org/ovf/envelope/2"):
			return "2"
		case strings.HasSuffix(v, "schemas.dmtf.org/ovf/envelope/1"), strings.HasSuffix(v, "schemas.dmtf.org/ovf/1/envelope"):
			return "1"
		case strings.HasSuffix(v, "vmware.com/schema/ovf/1/envelope"), a.Name.Local == "version" && v == "0.9":
			return "0.9"
		}
	}
	return ""
}

// configuration is the deployment option that is taken: the default one, which
// is the first unless another says so (DSP0243 2.1.1, 9.8).
func (r *reader) configuration() string {
	id := ""
	for _, s := range r.root.all("DeploymentOptionSection") {
		for _, c := range s.all("Configuration") {
			if id == "" || isTrue(c.attr("default")) {
				id = c.attr("id")
			}
			if isTrue(c.attr("default")) {
				return id
			}
		}
	}
	return id
}

// readProperties collects the values that a capacity may refer to.
func (r *reader) readProperties(e *element) {
	for _, c := range e.under {
		switch c.kind() {
		case "Property":
			value := c.attr("value")
			for _, v := range c.all("Value") {
				if v.attr("configuration") == r.config || value == "" {
					value = v.attr("value")
				}
			}
			if key := c.attr("key"); value != "" && r.properties[key] == "" {
				r.properties[key] = value
			}
		case "VirtualSystem", "VirtualSystemCollection", "ProductSection":
			r.readProperties(c)
		}
	}
}

func fileOf(e *element) File {
	f := File{ID: e.attr("id"), Name: e.attr("href"), Size: -1}
	if n, ok := bytesIn(e.attr("size"), "byte", ""); ok && e.attr("size") != "" {
		f.Size = n
	}
	if n, ok := bytesIn(e.attr("chunkSize"), "byte", ""); ok {
		f.Chunk = n
	}
	f.Gzip = strings.EqualFold(e.attr("compression"), "gzip")
	return f
}

func (r *reader) readDisks(section *element) error {
	for _, e := range section.all("Disk") {
		d := diskElement{fileRef: e.attr("fileRef"), parentRef: e.attr("parentRef")}
		d.ID, d.Format = e.attr("diskId"), e.attr("format")
		if _, twice := r.disks[d.ID]; twice || len(r.disks) >= maxFiles {
			return fmt.Errorf("disk %q is there twice, or there are more than %d: %w", d.ID, maxFiles, formats.ErrCorrupt)
		}
		if err := r.capacity(&d, e); err != nil {
			return err
		}
		if d.fileRef != "" {
			f, ok := r.files[d.fileRef]
			if !ok {
				return fmt.Errorf("disk %q: file %q is not in the references: %w", d.ID, d.fileRef, formats.ErrCorrupt)
			}
			d.File = &f
		}
		r.disks[d.ID] = d
		r.order = append(r.order, d.ID)
	}
	return nil
}

// capacity reads a disk's size, which may be the value of a property. oVirt
// gives it in gigabytes, under another name.
func (r *reader) capacity(d *diskElement, e *element) error {
	text, unit := e.attr("capacity"), e.attr("capacityAllocationUnits")
	if text == "" {
		text, unit = e.attr("size"), "GB"
	}
	if text == "" {
		return nil
	}
	if name, ok := strings.CutPrefix(text, "${"); ok {
		key := strings.TrimSuffix(name, "}")
		if text = r.properties[key]; text == "" {
			r.warn("the size of disk %q is that of property %q, which has no value", d.ID, key)
			return nil
		}
	}
	n, ok := bytesIn(text, unit, "byte")
	if !ok {
		return fmt.Errorf("disk %q: capacity %q in %q: %w", d.ID, text, unit, formats.ErrCorrupt)
	}
	d.Capacity = n
	return nil
}

func (r *reader) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// disk is the disk with that id and all it stands on.
func (r *reader) disk(id string) (Disk, error) {
	e, ok := r.disks[id]
	if !ok {
		return Disk{}, fmt.Errorf("disk %q is not in the disk section: %w", id, formats.ErrCorrupt)
	}
	d, seen := e.Disk, []string{id}
	for e.parentRef != "" {
		if slices.Contains(seen, e.parentRef) || len(seen) > maxParents {
			return Disk{}, fmt.Errorf("disk %q is its own ancestor, or has more than %d: %w", id, maxParents, formats.ErrCorrupt)
		}
		seen = append(seen, e.parentRef)
		parent, ok := r.disks[e.parentRef]
		if !ok || parent.File == nil {
			return Disk{}, fmt.Errorf("parent %q of disk %q is no disk with a file: %w", e.parentRef, id, formats.ErrCorrupt)
		}
		d.Parents = append(d.Parents, *parent.File)
		e = parent
	}
	return d, nil
}

// adopt gives the only machine all disks where none is attached to it, as some
// programs write it, and tells of disks that are left.
func (r *reader) adopt(m *Machine) {
	used := map[string]bool{}
	for _, d := range m.Disks {
		used[d.ID] = true
	}
	for _, id := range r.order {
		used[r.disks[id].parentRef] = true
	}
	none := len(m.Disks) == 0
	for _, id := range r.order {
		if used[id] {
			continue
		}
		if !none {
			m.Warnings = append(m.Warnings, fmt.Sprintf("disk %q is not attached to the machine: left out", id))
			continue
		}
		if d, err := r.disk(id); err == nil && len(m.Disks) < maxDisks {
			d.Unit = len(m.Disks)
			m.Disks = append(m.Disks, d)
		}
	}
	if none && len(m.Disks) > 0 {
		m.Warnings = append(m.Warnings, "the descriptor attaches no disk to the machine: all are taken, in the order in which they are written")
	}
}

// systems lists the machines, also those inside collections. parseTree bounds
// how deep they can lie.
func (r *reader) systems(e *element, out []*element) []*element {
	for _, c := range e.under {
		switch c.kind() {
		case "VirtualSystem":
			out = append(out, c)
		case "VirtualSystemCollection":
			out = r.systems(c, out)
		}
	}
	return out
}

func isTrue(s string) bool { return s == "1" || strings.EqualFold(s, "true") }

// printable is a word of the document for a message.
func printable(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// cut bounds a text that ends up in names and messages.
func cut(s string) string {
	if len(s) <= maxName {
		return s
	}
	return strings.ToValidUTF8(s[:maxName], "")
}

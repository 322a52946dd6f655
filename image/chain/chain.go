// Package chain opens a disk image with everything it stands on, its extent
// files and its parents, and joins them into one disk.
//
// What an image says about other files is a claim. A Policy decides which
// files may be opened for it, and a parent is attached only when it is the one
// the child was made over, as far as the format lets that be known: a snapshot
// over the wrong parent reads without any error and gives a broken disk.
package chain

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/image/hostfile"
	"hyper2kvm/image/nbd"
)

// MaxDepth is how many images a chain may have. VMware allows 32 snapshots
// (KB 1025279) and QEMU has no limit; a longer one is a mistake or a trap.
const MaxDepth = 64

// Sentinels to branch on, beside those of what is opened: fs.ErrNotExist
// (missing), fs.ErrPermission (unreadable), hostfile.ErrDirectory,
// hostfile.ErrNotFile, detect.ErrEmpty, formats.ErrFormat (not an image), and
// the other ones of formats.
var (
	// ErrWrongParent says that the file found is not the parent the image needs.
	ErrWrongParent = errors.New("not the parent that the image was made over")
	// ErrLoop says that an image is its own ancestor.
	ErrLoop = errors.New("the chain of parents goes in a circle")
	// ErrDepth says that a chain has more than MaxDepth images.
	ErrDepth = fmt.Errorf("the chain has more than %d images", MaxDepth)
)

// Policy says which files may be opened because an image names them. The zero
// value allows regular files in the folder of the image, and nothing else.
type Policy struct {
	// Format of the named image; "" detects it.
	Format string
	// Outside allows other folders, by absolute names too. Even then only regular
	// files are opened, never a device and nothing behind a URL.
	Outside bool
}

// Opened is one image of a chain.
type Opened struct {
	Path string       `json:"path"`
	Info formats.Info `json:"info"`
	// Files are the files beside Path that hold its data: extents.
	Files []string `json:"files,omitempty"`
}

// Chain is an image over its parents. It is a formats.Disk without Absent
// extents.
type Chain struct {
	layers []formats.Image // newest first
	images []Opened        // likewise
	files  []*hostfile.File
	host   []string    // what Files gives, where the images are no files of the host
	remote *nbd.Client // nil when all is files
}

// Open opens the image at path for reading, with all it stands on. A block
// device is opened as a raw disk, an NBD URI as what its server serves. What is wrong with a file that an image
// names gives a *BrokenError, which can print the whole chain.
func Open(path string, pol Policy) (*Chain, error) {
	if nbd.IsAddress(path) {
		return openRemote(path, pol)
	}
	f, err := hostfile.Open(path)
	if err != nil {
		return nil, err
	}
	return openOver(f, pol)
}

// openOver opens the image in f, and closes f with it.
func openOver(f *hostfile.File, pol Policy) (*Chain, error) {
	c := &Chain{files: []*hostfile.File{f}}
	r := resolver{chain: c, policy: pol}
	format := pol.Format
	if info, err := f.OSFile().Stat(); err == nil && !info.Mode().IsRegular() && format == "" {
		format = "raw" // a device holds a disk as it is; what its first bytes look like is the guest's doing
	}
	if err := r.openAll(f.Format(), format); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close closes all files of the chain.
func (c *Chain) Close() error {
	var err error
	for _, f := range c.files {
		err = errors.Join(err, f.Close())
	}
	c.files = nil
	if c.remote != nil {
		err = errors.Join(err, c.remote.Close())
	}
	return err
}

// Images lists the images, the named one first and its oldest ancestor last.
func (c *Chain) Images() []Opened { return slices.Clone(c.images) }

// Files lists all host files that were opened.
func (c *Chain) Files() []string {
	if c.host != nil {
		return slices.Clone(c.host)
	}
	var out []string
	for _, i := range c.images {
		out = append(append(out, i.Path), i.Files...)
	}
	return out
}

// Size implements formats.Disk: it is that of the named image.
func (c *Chain) Size() int64 { return c.layers[0].Size() }

// ReadAt implements formats.Disk.
func (c *Chain) ReadAt(p []byte, off int64) (int, error) {
	if len(c.layers) == 1 {
		return c.layers[0].ReadAt(p, off)
	}
	if off < 0 {
		return 0, fmt.Errorf("read %s at negative offset %d", c.images[0].Path, off)
	}
	if off >= c.Size() {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > c.Size()-off {
		p, eof = p[:c.Size()-off], io.EOF
	}
	done := 0
	for done < len(p) {
		n, err := c.readRun(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, eof
}

// readRun reads the first run of p that one layer has.
func (c *Chain) readRun(p []byte, off int64) (int, error) {
	e, layer, err := c.find(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	p = p[:e.Length]
	if e.Kind == formats.Zero {
		clear(p)
		return len(p), nil
	}
	n, err := c.layers[layer].ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("read %s: %w", c.images[layer].Path, err)
}

// Extent implements formats.Disk.
func (c *Chain) Extent(offset, limit int64) (formats.Extent, error) {
	e, _, err := c.Layer(offset, limit)
	return e, err
}

// find gives the run at off and the layer that has it. Past the end of a
// parent, which may be smaller than its child, all is zero.
func (c *Chain) find(off, limit int64) (formats.Extent, int, error) {
	for i, layer := range c.layers {
		if off >= layer.Size() {
			return formats.Extent{Offset: off, Length: limit, Kind: formats.Zero}, i, nil
		}
		e, err := layer.Extent(off, min(limit, layer.Size()-off))
		if err != nil {
			return formats.Extent{}, i, fmt.Errorf("%s: %w", c.images[i].Path, err)
		}
		if e.Kind != formats.Absent {
			return e, i, nil
		}
		limit = e.Length
	}
	last := len(c.layers) - 1
	return formats.Extent{}, last, fmt.Errorf("%s at %d: %w", c.images[last].Path, off, formats.ErrAbsent)
}

// resolver opens the files of a chain, and keeps the record that a BrokenError
// prints.
type resolver struct {
	chain  *Chain
	policy Policy
	// within finds what images name, where they are no files of the host.
	within formats.Opener
	tree   []*node // one an image, newest first
}

// open opens what the image at path names.
func (r *resolver) open(path, name string) (formats.File, error) {
	if r.within != nil {
		return r.within(name)
	}
	f, err := r.policy.open(filepath.Dir(path), name)
	if err != nil {
		return formats.File{}, err
	}
	r.chain.files = append(r.chain.files, f)
	return f.Format(), nil
}

// openAll opens the named image and follows its parents.
func (r *resolver) openAll(f formats.File, format string) error {
	r.tree = append(r.tree, &node{name: filepath.Base(f.Name)})
	img, err := r.openImage(f, format)
	if err != nil {
		return r.broken(err, slices.ContainsFunc(r.tree[0].extents, func(x *node) bool { return x.err != nil }))
	}
	for img.Info().Parent != nil {
		if img, err = r.openParent(*img.Info().Parent); err != nil {
			return r.broken(err, true)
		}
	}
	return nil
}

// openImage parses f, whose node is the last one, and adds it to the chain.
func (r *resolver) openImage(f formats.File, format string) (formats.Image, error) {
	n := r.tree[len(r.tree)-1]
	opened := Opened{Path: f.Name}
	img, err := detect.OpenAs(format, f, r.extentOpener(f.Name, n, &opened))
	if err != nil {
		n.err = err
		return nil, err
	}
	opened.Info = img.Info()
	n.info = &opened.Info
	r.chain.layers = append(r.chain.layers, img)
	r.chain.images = append(r.chain.images, opened)
	return img, nil
}

// extentOpener opens what a parser asks for while it opens the image at path.
func (r *resolver) extentOpener(path string, n *node, opened *Opened) formats.Opener {
	had := make(map[string]formats.File) // a descriptor may name one file many times
	return func(name string) (formats.File, error) {
		if f, ok := had[name]; ok {
			return f, nil
		}
		f, err := r.open(path, name)
		n.extents = append(n.extents, &node{name: name, err: err})
		if err != nil {
			return formats.File{}, err
		}
		had[name] = f
		opened.Files = append(opened.Files, f.Name)
		return f, nil
	}
}

// openParent opens what the last image claims to be its parent, and checks it.
func (r *resolver) openParent(claim formats.Claim) (formats.Image, error) {
	child := r.chain.images[len(r.chain.images)-1]
	n := &node{name: claim.Name}
	if n.name == "" {
		n.name = "id " + claim.ID
	}
	r.tree = append(r.tree, n)
	img, err := r.parent(child, claim)
	if err != nil {
		n.err = err
		return nil, fmt.Errorf("parent %q of %s: %w", n.name, child.Path, err)
	}
	return img, nil
}

// claimed opens the file that a claim means.
func (r *resolver) claimed(path string, claim formats.Claim) (formats.File, error) {
	if claim.Name == "" && claim.ID != "" && claim.Format != "" && r.within == nil {
		return r.search(path, claim)
	}
	return r.open(path, claim.Name)
}

func (r *resolver) parent(child Opened, claim formats.Claim) (formats.Image, error) {
	if len(r.chain.images) >= MaxDepth {
		return nil, ErrDepth
	}
	f, err := r.claimed(child.Path, claim)
	if err != nil {
		return nil, err
	}
	if r.isAncestor(f) {
		return nil, ErrLoop
	}
	img, err := r.openImage(f, claim.Format)
	if err != nil {
		return nil, err
	}
	return img, verify(claim, img.Info())
}

// isAncestor reports whether f is one of the images opened so far.
func (r *resolver) isAncestor(f formats.File) bool {
	host, ok := f.ReaderAt.(*hostfile.File)
	if !ok {
		return slices.ContainsFunc(r.chain.images, func(o Opened) bool { return o.Path == f.Name })
	}
	info, err := host.OSFile().Stat()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(r.chain.images, func(o Opened) bool {
		other, err := os.Stat(o.Path)
		return err == nil && os.SameFile(info, other)
	})
}

// verify compares what a child says of its parent with the file that was found.
func verify(claim formats.Claim, got formats.Info) error {
	wrong := func(what, has, needs string) error {
		return fmt.Errorf("%s %s, the image needs %s: %w", what, orNone(has), needs, ErrWrongParent)
	}
	switch {
	case !claim.Means(got.ID):
		return wrong("id", got.ID, claim.ID)
	case claim.ContentID != "" && claim.ContentID != got.ContentID:
		return wrong("content id", got.ContentID, claim.ContentID)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Layer is Extent, and says which of Images has the run: the one whose data it
// is, or that says that it is zero.
func (c *Chain) Layer(offset, limit int64) (formats.Extent, int, error) {
	if offset < 0 || offset >= c.Size() || limit <= 0 {
		return formats.Extent{}, 0, fmt.Errorf("extent of %s at %d, limit %d: outside of %d bytes", c.images[0].Path, offset, limit, c.Size())
	}
	return c.find(offset, min(limit, c.Size()-offset))
}

// Layers are the images as their parsers give them, in the order of Images.
func (c *Chain) Layers() []formats.Image { return slices.Clone(c.layers) }

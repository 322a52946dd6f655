package convert

import (
	"fmt"
	"io"
	"strings"

	"hyper2kvm/formats"
	"hyper2kvm/formats/qcow2"
	"hyper2kvm/formats/vdi"
	"hyper2kvm/formats/vhd"
	"hyper2kvm/formats/vhdx"
	"hyper2kvm/formats/vmdk"
)

// target lays out an image of one format. Places are given in guest order,
// from one goroutine at a time; bytes are written there in any order.
type target interface {
	// Unit is the allocation unit in bytes.
	Unit() int64
	// Place gives room to length bytes of guest data that begin at guest, a
	// multiple of Unit. placed may be less than length: the rest goes elsewhere.
	Place(guest, length int64) (host, placed int64, err error)
	// Finish completes the image and returns the size of the file.
	Finish() (size int64, err error)
}

// packer compresses one unit at a time and appends it to dst; a result no
// longer than dst means that the unit is to be placed as it is.
type packer interface {
	Pack(dst []byte, guest int64, unit []byte) ([]byte, error)
}

// packing is a target that stores compressed units.
type packing interface {
	// PlacePacked gives room to one unit that takes size bytes compressed.
	PlacePacked(guest int64, size int) (host int64, err error)
}

func (o *Options) packs() bool {
	return o.Compress == "zlib" || o.Compress == "zstd" || o.Variant == "streamOptimized"
}

// check fills in the defaults and refuses what cannot be.
func (o *Options) check() error {
	if o.Format == "" {
		o.Format = "qcow2"
	}
	if o.Compress == "" {
		o.Compress = "none"
	}
	bad := func(what string) error { return fmt.Errorf("%s for %s: %w", what, o.Format, ErrOptions) }
	switch o.Format {
	case "qcow2":
		if o.Variant != "" {
			return bad("variant " + o.Variant)
		}
	case "raw":
		if o.Variant != "" || o.Compress != "none" || o.ClusterSize != 0 {
			return bad("variant, compression or cluster size")
		}
	case "vmdk":
		if o.Compress != "none" && o.Variant != "streamOptimized" || o.Compress == "zstd" {
			return bad("compression " + o.Compress)
		}
	case "vhd", "vdi", "vhdx":
		if o.Compress != "none" || o.ClusterSize != 0 {
			return bad("compression or block size")
		}
	default:
		return fmt.Errorf("output format %q: %w", o.Format, ErrOptions)
	}
	return nil
}

// Like gives the options that write an image of the same kind anew. It is
// ErrOptions for what is not written, and for what would not come along: parents,
// other files, internal snapshots and bitmaps.
func Like(info formats.Info) (Options, error) {
	opt := Options{Format: info.Format, Variant: info.Variant, Sector: info.Sector}
	switch info.Format {
	case "qcow2":
		opt.Variant = "" // always version 3
		for _, f := range info.Fields {
			if f.Name == "data file" {
				return opt, fmt.Errorf("its data lies in another file (%s): %w", f.Value, ErrOptions)
			}
		}
	case "vmdk":
		if info.Variant != "monolithicSparse" && info.Variant != "streamOptimized" {
			return opt, fmt.Errorf("VMDK of kind %s: %w", info.Variant, ErrOptions)
		}
	}
	if len(info.Extras) > 0 {
		return opt, fmt.Errorf("it holds more than the disk (%s): %w", strings.Join(info.Extras, ", "), ErrOptions)
	}
	if info.Parent != nil {
		return opt, fmt.Errorf("it stands on %s: %w", info.Parent.Name, ErrOptions)
	}
	return opt, opt.check()
}

// newTarget begins the image of opt in f.
func newTarget(f io.WriterAt, size int64, opt Options) (target, error) {
	var t target
	var err error
	switch opt.Format {
	case "raw":
		return rawTarget{size}, nil
	case "vmdk":
		t, err = vmdk.NewWriter(f, size, vmdk.Options{Variant: opt.Variant, GrainSize: opt.ClusterSize, Name: opt.name})
	case "vhd":
		t, err = vhd.NewWriter(f, size, vhd.Options{Variant: opt.Variant, Name: opt.name})
	case "vdi":
		t, err = vdi.NewWriter(f, size, vdi.Options{Variant: opt.Variant, Name: opt.name})
	case "vhdx":
		t, err = vhdx.NewWriter(f, size, vhdx.Options{Variant: opt.Variant, Sector: opt.Sector, Name: opt.name})
	default:
		t, err = qcow2.NewWriter(f, size, qcow2.Options{ClusterSize: opt.ClusterSize, Compression: opt.Compress})
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	return t, nil
}

// newPacker makes what one worker needs to compress; nil when t is not
// compressed.
func newPacker(t target) (packer, error) {
	switch t := t.(type) {
	case *qcow2.Writer:
		if p, err := t.NewPacker(); p != nil || err != nil {
			return p, err
		}
	case *vmdk.Writer:
		if p, err := t.NewPacker(); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// rawTarget is a raw image: every byte has its place already.
type rawTarget struct{ size int64 }

// Unit is the granularity in which zeroes become holes: a page, the usual
// block of file systems.
func (rawTarget) Unit() int64 { return 4096 }

func (rawTarget) Place(guest, length int64) (host, placed int64, err error) {
	return guest, length, nil
}

func (t rawTarget) Finish() (int64, error) { return t.size, nil }

// Package formats holds what all on-disk virtual disk formats have in common:
// the Disk that a parser gives, the Extents it is made of, and the claims that
// an image makes about other files.
//
// A parser is pure: it reads from an io.ReaderAt, opens nothing, decides
// nothing. Files that an image names (a backing file, an extent file, a
// parent) are returned as claims or asked for through an Opener that the
// caller, with its policy, supplies.
package formats

import (
	"errors"
	"fmt"
	"io"
)

// Sentinels to branch on. Parsers wrap them with what was being read and where.
var (
	// ErrFormat says that the bytes are not in this format at all; a detector
	// goes on to the next one.
	ErrFormat = errors.New("not in this format")
	// ErrCorrupt says that the format was recognised but its structure is wrong.
	ErrCorrupt = errors.New("damaged image")
	// ErrTruncated says that the file ends before the structure it announces.
	ErrTruncated = errors.New("truncated image")
	// ErrUnsupported says that the image uses a feature that is not read.
	ErrUnsupported = errors.New("unsupported image feature")
	// ErrPart says that a file is one part of a disk: read alone, it gives another
	// disk than the guest had.
	ErrPart = errors.New("one part of a disk")
	// ErrAbsent is returned by ReadAt for a range that only a parent can answer.
	ErrAbsent = errors.New("data lies in a parent that is not attached")
	// ErrRefused says that policy forbids opening a file that an image names.
	ErrRefused = errors.New("refused by policy")
)

// Kind says what stands behind an extent.
type Kind uint8

// The kinds of extent.
const (
	// Zero reads as zeroes and takes no space.
	Zero Kind = iota
	// Data has bytes of its own in this image.
	Data
	// Absent is not in this image: the parent answers.
	Absent
)

// String gives the word used in `h2k disk map`.
func (k Kind) String() string {
	switch k {
	case Zero:
		return "zero"
	case Data:
		return "data"
	case Absent:
		return "absent"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Location says that the bytes of an extent lie unencoded and contiguous in
// File at Offset, so that a copy can be handed to the kernel.
type Location struct {
	File   io.ReaderAt
	Offset int64
}

// Extent is a run of guest-visible bytes of one Kind. Offset and Length are in
// bytes. Plain is non-nil only for Data that lies unencoded in one file.
type Extent struct {
	Offset, Length int64
	Kind           Kind
	Plain          *Location
}

// Disk is the guest-visible content of a virtual disk, whatever its format.
// All methods may be called from several goroutines at once.
type Disk interface {
	// ReadAt reads guest-visible bytes. Reading at or past Size gives io.EOF;
	// a range that is Absent gives ErrAbsent, never made-up zeroes.
	io.ReaderAt
	// Size is the virtual size in bytes.
	Size() int64
	// Extent describes the run that begins at offset: at least one byte, at
	// most limit bytes, and possibly shorter than the maximal run. offset must
	// lie within the disk.
	Extent(offset, limit int64) (Extent, error)
}

// Claim is what an image says about a file it depends on. Nothing in it is
// trusted: a resolver with a policy finds the file, a verifier checks it.
type Claim struct {
	Name      string // as written in the image
	Format    string // as written in the image, "" when it does not say
	ID        string // identity the parent must have (VMDK parentCID, VHDX GUID), "" when none
	OtherID   string // another identity that will do (VHDX parent_linkage2), "" when none
	ContentID string // content id the parent must have at this moment, "" when none
}

// Means reports whether the parent may have that identity.
func (c Claim) Means(id string) bool {
	return c.ID == "" || id == c.ID || c.OtherID != "" && id == c.OtherID
}

// Field is one line of `h2k disk info`.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Info describes an opened image.
type Info struct {
	Format    string  `json:"format"`            // "vmdk"
	Variant   string  `json:"variant,omitempty"` // "streamOptimized", "v3"
	Size      int64   `json:"virtual_size"`
	ClusterSz int64   `json:"cluster_size,omitempty"` // allocation unit: cluster, grain, block
	Sector    int64   `json:"sector_size"`            // logical sector size that the guest saw, 512 or 4096
	ID        string  `json:"id,omitempty"`           // identity that a child would claim
	ContentID string  `json:"content_id,omitempty"`
	Parent    *Claim  `json:"parent,omitempty"` // nil when the image stands alone
	Fields    []Field `json:"fields,omitempty"` // everything else the header says
	// Extras are what the image holds beside the disk, which a copy of the disk
	// does not have: "2 internal snapshots".
	Extras []string `json:"extras,omitempty"`
	// Warnings are defects that were tolerated, in words for the user.
	Warnings []string `json:"warnings,omitempty"`
}

// Image is a Disk read from a file of one format. A Disk whose Info has no
// Parent never gives Absent extents.
type Image interface {
	Disk
	Info() Info
}

// File is an opened host file as parsers see it.
type File struct {
	io.ReaderAt
	Size int64
	Name string // for messages only
}

// Opener opens a file that an image names (an extent of a VMDK descriptor, an
// external data file). It carries the policy: a parser never opens anything
// itself. It returns ErrRefused, wrapped, for a name that policy forbids.
type Opener func(name string) (File, error)

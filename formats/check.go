package formats

import "context"

// The kinds of structural problem.
const (
	// Leak is space of the file that nothing refers to: harmless, but lost.
	Leak = "leak"
	// Overlap is space that two parts of the guest, or of the metadata, both
	// call theirs.
	Overlap = "overlap"
	// BadReference points outside of the file, or where nothing can lie.
	BadReference = "bad-reference"
	// BadMetadata is a wrong checksum, count or copy of something that is there
	// twice.
	BadMetadata = "bad-metadata"
)

// Problem is one structural defect of an image.
type Problem struct {
	Kind    string `json:"kind"`
	Offset  int64  `json:"offset"` // in the file, in bytes
	Message string `json:"message"`
	// Harmless says that every byte the guest sees is nonetheless right.
	Harmless bool `json:"harmless,omitempty"`
	// Patches mend the problem without touching what the guest sees; none where
	// no safe way exists.
	Patches []Patch `json:"-"`
}

// Patch is bytes to write over those at Offset of the image's first file.
type Patch struct {
	Offset int64
	Bytes  []byte
}

// Checker is an image whose structure can be checked beyond what opening and
// reading it checks. Check reads only; it hands each problem to report, and
// gives an error where the check could not be carried out. A damaged image may
// have very many problems: report returning an error ends the check with it.
type Checker interface {
	Check(ctx context.Context, report func(Problem) error) error
}

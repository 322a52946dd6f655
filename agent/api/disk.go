package api

// MapOptions steer MAP: which part of a disk is listed.
type MapOptions struct {
	Offset int64 `json:"offset,omitempty"` // bytes
	Length int64 `json:"length,omitempty"` // bytes; 0 goes to the end
}

// CheckOptions steer CHECK.
type CheckOptions struct {
	Repair bool `json:"repair,omitempty"` // mend what is safe to mend
	Undo   bool `json:"undo,omitempty"`   // take back the last repair
}

// DigestOptions steer DIGEST. Without any, it is one digest of the whole disk.
type DigestOptions struct {
	Range  int64  `json:"range,omitempty"`  // bytes; a digest for each range of this size
	Verify string `json:"verify,omitempty"` // path of a list of digests that the disk must have
}

// ServeOptions steer SERVE. Exactly one of Unix and Listen is given.
type ServeOptions struct {
	Unix    string `json:"unix,omitempty"`    // path of the socket to make
	Listen  string `json:"listen,omitempty"`  // HOST:PORT; without TLS only of this machine
	Export  string `json:"export,omitempty"`  // name of the export; clients may ask for "" in any case
	Overlay string `json:"overlay,omitempty"` // file that takes writes; "" serves read only
	// Paths of PEM files; a client must show a certificate signed by one in TLSCA.
	TLSCert string `json:"tls_cert,omitempty"`
	TLSKey  string `json:"tls_key,omitempty"`
	TLSCA   string `json:"tls_ca,omitempty"`
}

// Stretch is a part of a disk that is all of one kind.
type Stretch struct {
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	Kind   string `json:"kind"`  // "data", "zero"
	Image  int    `json:"image"` // which of the chain has it, 0 the named one; of zeroes, which says so
	// File and At say where data lies as it is; "" where it is packed.
	File string `json:"file,omitempty"`
	At   int64  `json:"file_offset,omitempty"`
}

// Problem is a structural defect of an image.
type Problem struct {
	Kind    string `json:"kind"`   // "leak", "overlap", "bad-reference", "bad-metadata"
	Offset  int64  `json:"offset"` // in the file
	Message string `json:"message"`
	// Harmless says that every byte the guest sees is nonetheless right.
	Harmless bool `json:"harmless"`
	// Repairable says that --repair mends it.
	Repairable bool `json:"repairable"`
}

// ImageCheck is the outcome of checking the structure of one image of a chain.
type ImageCheck struct {
	Image   string `json:"image"`
	Format  string `json:"format"`
	Checked bool   `json:"checked"` // false for a format that has nothing to check, or that cannot be checked
	Note    string `json:"note,omitempty"`
	Found   int    `json:"found"` // how many problems there are; the first ones are listed
	// Problems are what is wrong now, Repaired what was mended.
	Problems []Problem `json:"problems,omitempty"`
	Repaired []Problem `json:"repaired,omitempty"`
	// Backup is the file that h2k disk check --undo takes the repair back from.
	Backup string `json:"backup,omitempty"`
}

// DigestList holds the digests of all ranges of a disk.
type DigestList struct {
	Version   int           `json:"version"`
	Algorithm string        `json:"algorithm"` // "sha256"
	Size      int64         `json:"virtual_size"`
	RangeSize int64         `json:"range_size"`
	Ranges    []RangeDigest `json:"ranges"`
}

// RangeDigest is the digest of one range; the last one of a disk may be short.
type RangeDigest struct {
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// DigestCheck is the outcome of comparing a disk with a list of digests.
type DigestCheck struct {
	Equal    bool          `json:"equal"`
	Checked  int           `json:"checked"`             // ranges
	Differ   []RangeDigest `json:"differ,omitempty"`    // with the digests that the disk has
	WantSize int64         `json:"list_size,omitempty"` // where the list is of a disk of another size
}

// Served says where a disk was served.
type Served struct {
	URI      string `json:"uri"`
	ReadOnly bool   `json:"read_only"`
}

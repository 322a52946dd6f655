package formats

import (
	"errors"
	"fmt"
	"io"
)

// ReadFull reads all of p from a file that an image is made of. What the file
// is too short for is ErrTruncated, so that a copy that broke off is told as
// such wherever it shows.
func ReadFull(f File, p []byte, off int64) error {
	if off < 0 || off > f.Size || int64(len(p)) > f.Size-off {
		return fmt.Errorf("%s: %d bytes at offset %d of a file of %d bytes: %w", f.Name, len(p), off, f.Size, ErrTruncated)
	}
	if n, err := f.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = ErrTruncated
		}
		return fmt.Errorf("read %s at offset %d: %w", f.Name, off, err)
	}
	return nil
}

// ReadRuns fills p, which lies within a disk, run by run: read fills the first
// bytes of what it is given, at least one, and says how many.
func ReadRuns(p []byte, off int64, read func(p []byte, off int64) (int, error)) (int, error) {
	done := 0
	for done < len(p) {
		n, err := read(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// ReadPlain is the ReadAt of a disk whose data always lies plain; name is for
// messages.
func ReadPlain(d Disk, name string, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s at negative offset %d", name, off)
	}
	if off >= d.Size() {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > d.Size()-off {
		p, eof = p[:d.Size()-off], io.EOF
	}
	n, err := ReadRuns(p, off, func(p []byte, off int64) (int, error) { return readPlain(d, name, p, off) })
	if err != nil {
		return n, err
	}
	return n, eof
}

// readPlain reads the first run of p.
func readPlain(d Disk, name string, p []byte, off int64) (int, error) {
	e, err := d.Extent(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	p = p[:e.Length]
	switch e.Kind {
	case Zero:
		clear(p)
		return len(p), nil
	case Absent:
		return 0, fmt.Errorf("%s at guest offset %d: %w", name, off, ErrAbsent)
	}
	f := File{ReaderAt: e.Plain.File, Size: e.Plain.Offset + e.Length, Name: name}
	if err := ReadFull(f, p, e.Plain.Offset); err != nil {
		return 0, err
	}
	return len(p), nil
}

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

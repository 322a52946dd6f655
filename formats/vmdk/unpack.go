package vmdk

import (
	"encoding/binary"
	"fmt"

	"hyper2kvm/formats"
	"hyper2kvm/formats/inflate"
)

// readCompressed reads from one compressed grain.
func (s *sparse) readCompressed(p []byte, off int64) (int, error) {
	index, in := off/s.grain, off%s.grain
	if whole := min(s.grain, s.size-index*s.grain); in == 0 && int64(len(p)) >= whole {
		if err := s.inflate(p[:whole], index); err != nil {
			return 0, err
		}
		return int(whole), nil
	}
	grain, err := s.grains.Get(index)
	if err != nil {
		return 0, err
	}
	return copy(p, grain[in:]), nil
}

func (s *sparse) loadGrain(index int64) ([]byte, error) {
	b := make([]byte, min(s.grain, s.size-index*s.grain))
	return b, s.inflate(b, index)
}

// inflate decompresses the grain of that index into dst.
func (s *sparse) inflate(dst []byte, index int64) error {
	gt, err := s.table(index / s.perTable)
	if err != nil {
		return err
	}
	if gt == nil {
		return fmt.Errorf("%s: grain table %d has changed: %w", s.file.Name, index/s.perTable, formats.ErrCorrupt)
	}
	at := s.decode(gt[index%s.perTable]).off
	z, _ := s.inflaters.Get().(*inflater)
	if z == nil {
		z = &inflater{Decoder: inflate.New()}
	}
	defer s.inflaters.Put(z)
	packed, err := s.readPacked(z, at, index, s.room(gt, index%s.perTable))
	if err != nil {
		return err
	}
	whole, err := z.Zlib(dst, packed)
	if err == nil && !whole && int64(len(dst)) == s.grain {
		err = inflate.ErrData // it holds more than a grain
	}
	if err != nil {
		//nolint:errorlint // a decoder's io.EOF must not look like the end of the disk
		return fmt.Errorf("%s: decompress grain %d at offset %d: %v: %w", s.file.Name, index, at, err, formats.ErrCorrupt)
	}
	return nil
}

// room is what a compressed grain takes in the file, at most, as far as the table
// tells: the next one lies behind it as a rule. Without, it is twice the grain:
// deflate makes data that cannot be compressed a little longer, never that.
func (s *sparse) room(gt []int64, i int64) int64 {
	n := 2 * s.grain
	if i+1 < int64(len(gt)) && gt[i+1] > gt[i] {
		n = min(n, gt[i+1]-gt[i])
	}
	return n
}

// readPacked reads the compressed bytes of a grain. Section "Compressed
// Grains": sector number (8 bytes), size in bytes (4), data.
func (s *sparse) readPacked(z *inflater, at, index, room int64) ([]byte, error) {
	if !s.markers {
		return z.read(s.file, at, min(room, max(s.file.Size-at, 0)))
	}
	// Most grains are read in one go: header and a guess of the data.
	b, err := z.read(s.file, at, min(markerBytes+s.grain, room, max(s.file.Size-at, 0)))
	if err != nil {
		return nil, err
	}
	if len(b) < markerBytes {
		return nil, fmt.Errorf("%s: grain marker at offset %d: %w", s.file.Name, at, formats.ErrTruncated)
	}
	lba, size := binary.LittleEndian.Uint64(b), int64(binary.LittleEndian.Uint32(b[8:]))
	if lba != uint64(index*s.grain/sectorSize) {
		return nil, fmt.Errorf("%s: grain marker at offset %d is for sector %d, not %d: %w",
			s.file.Name, at, lba, index*s.grain/sectorSize, formats.ErrCorrupt)
	}
	if size > 2*s.grain {
		return nil, fmt.Errorf("%s: compressed grain of %d bytes at offset %d: %w", s.file.Name, size, at, formats.ErrCorrupt)
	}
	if markerBytes+size > int64(len(b)) {
		if markerBytes+size > s.file.Size-at {
			return nil, fmt.Errorf("%s: grain of %d bytes at offset %d: %w", s.file.Name, size, at, formats.ErrTruncated)
		}
		if b, err = z.read(s.file, at, markerBytes+size); err != nil {
			return nil, err
		}
	}
	return b[markerBytes : markerBytes+size], nil
}

// inflater is what decompressing needs, used again and again.
type inflater struct {
	*inflate.Decoder
	buf []byte
}

func (z *inflater) read(f formats.File, off, n int64) ([]byte, error) {
	if int64(cap(z.buf)) < n {
		z.buf = make([]byte, n)
	}
	b := z.buf[:n]
	return b, formats.ReadFull(f, b, off)
}

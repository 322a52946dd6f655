package kmod

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"hyper2kvm/formats"
	"hyper2kvm/formats/xzlimit"
)

// maxModule is the largest module that is read, and the largest window to unpack
// one with, in bytes. The largest of Debian's, nouveau, has 10 MiB.
const maxModule = 64 << 20

// ReadModule reads the file of a module, unpacked. How it is packed is told by
// its name, as modprobe does.
func ReadModule(r io.Reader, file string) ([]byte, error) {
	plain, done, err := unpack(r, file)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", file, err)
	}
	defer done()
	data, err := io.ReadAll(io.LimitReader(plain, maxModule+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read module %s: %w: %w", file, formats.ErrCorrupt, err)
	case len(data) > maxModule:
		return nil, fmt.Errorf("read module %s: %w: larger than %d bytes", file, formats.ErrUnsupported, maxModule)
	case !bytes.HasPrefix(data, []byte("\x7fELF")):
		return nil, fmt.Errorf("read module %s: %w: not an ELF file", file, formats.ErrFormat)
	}
	return data, nil
}

func unpack(r io.Reader, file string) (plain io.Reader, done func(), err error) {
	done = func() {}
	switch {
	case strings.HasSuffix(file, ".gz"):
		plain, err = gzip.NewReader(r)
	case strings.HasSuffix(file, ".xz"):
		plain, err = xzlimit.New(r, maxModule)
	case strings.HasSuffix(file, ".zst"):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxModule)); err == nil {
			plain, done = z, z.Close
		}
	default:
		plain = r
	}
	return plain, done, err
}

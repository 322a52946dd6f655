package cpio

import (
	"bytes"
	"compress/bzip2"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"

	"hyper2kvm/formats/xzlimit"
)

// maxWindow is the largest window or dictionary that is allocated, in bytes:
// what the kernel accepts of zstd (ZSTD_WINDOWSIZE_MAX, lib/decompress_unzstd.c).
const maxWindow = 128 << 20

// unpacker reads one compressed stream and leaves what follows it unread.
type unpacker func(*stream) (r io.Reader, done func(), err error)

func nothing() {}

// LZ4Frame is the compression of a segment that the kernel does not unpack: it
// knows the legacy form of lz4 alone.
const LZ4Frame = "lz4 frame"

// detect tells a compression by its first bytes (lib/decompress.c).
func detect(magic []byte) (string, unpacker) {
	for _, c := range []struct {
		magic, name string
		unpack      unpacker
	}{
		{"\x1f\x8b", "gzip", openGzip},
		{"\x1f\x9e", "gzip", openGzip},
		{"BZh", "bzip2", openBzip2},
		{"\x5d\x00", "lzma", openLZMA},
		{"\xfd7zXZ", "xz", openXZ},
		{"\x89LZO", "lzo", openLZO},
		{"\x02\x21\x4c\x18", "lz4", openLZ4},
		{"\x04\x22\x4d\x18", LZ4Frame, openLZ4Frame},
		{"\x28\xb5\x2f\xfd", "zstd", openZstd},
	} {
		if bytes.HasPrefix(magic, []byte(c.magic)) {
			return c.name, c.unpack
		}
	}
	return "", nil
}

func openGzip(s *stream) (io.Reader, func(), error) {
	z, err := gzip.NewReader(s)
	if err != nil {
		return nil, nil, err
	}
	z.Multistream(false)
	return z, nothing, nil
}

// openXZ reads one xz stream. The decoder looks for the end of the file behind
// it and so reads one byte too many.
func openXZ(s *stream) (io.Reader, func(), error) {
	t := &tail{s: s}
	r, err := xzlimit.NewReader(t, maxWindow)
	return &upToTail{r: r, t: t, over: 1, message: "xz: unexpected data after stream"}, nothing, err
}

func openLZMA(s *stream) (io.Reader, func(), error) {
	r, err := lzma.ReaderConfig{DictCap: maxWindow}.NewReader(s)
	return r, nothing, err
}

// openBzip2 reads one bzip2 stream. The decoder looks for another one behind
// it and so reads two bytes too many, unless the file ends.
func openBzip2(s *stream) (io.Reader, func(), error) {
	t := &tail{s: s}
	return &upToTail{
		r: bzip2.NewReader(t), t: t, over: 2,
		message: "bzip2 data invalid: bad magic value in continuation file",
	}, nothing, nil
}

// tail remembers the last two bytes that were read.
type tail struct {
	s    *stream
	last [2]byte
}

func (t *tail) ReadByte() (byte, error) {
	b, err := t.s.ReadByte()
	if err == nil {
		t.last[0], t.last[1] = t.last[1], b
	}
	return b, err
}

// Peek looks ahead.
func (t *tail) Peek(n int) ([]byte, error) { return t.s.br.Peek(n) }

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.s.Read(p)
	for _, b := range p[max(0, n-2):n] {
		t.last[0], t.last[1] = t.last[1], b
	}
	return n, err
}

// upToTail ends where the decoder complains with message about what follows its
// data, and puts back what it read of that.
type upToTail struct {
	r       io.Reader
	t       *tail
	over    int
	message string
	done    bool
}

func (u *upToTail) Read(p []byte) (int, error) {
	if u.done {
		return 0, io.EOF
	}
	n, err := u.r.Read(p)
	if err != nil && err.Error() == u.message {
		u.t.s.unread(u.t.last[2-u.over:])
		u.done, err = true, io.EOF
	}
	return n, err
}

func openZstd(s *stream) (io.Reader, func(), error) {
	z, err := zstd.NewReader(&zstdFrame{s: s}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<62))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

// zstdFrame gives the bytes of one frame and then io.EOF (RFC 8878, section
// 3.1.1).
type zstdFrame struct {
	s        *stream
	pending  []byte // header bytes read and not yet given
	left     int64  // bytes of the block to give after pending
	began    bool
	last     bool // no block follows
	checksum bool
	end      bool
}

func (z *zstdFrame) Read(p []byte) (int, error) {
	for {
		switch {
		case len(z.pending) > 0:
			n := copy(p, z.pending)
			z.pending = z.pending[n:]
			return n, nil
		case z.left > 0:
			n, err := z.s.Read(p[:min(int64(len(p)), z.left)])
			z.left -= int64(n)
			return n, truncated(err)
		case z.end:
			return 0, io.EOF
		case !z.began:
			if err := z.header(); err != nil {
				return 0, err
			}
		case z.last:
			z.end = true
			if z.checksum {
				z.left = 4
			}
		default:
			if err := z.block(); err != nil {
				return 0, err
			}
		}
	}
}

func (z *zstdFrame) header() error {
	head := make([]byte, 5)
	if _, err := io.ReadFull(z.s, head); err != nil {
		return truncated(err)
	}
	flags := head[4]
	single := flags&0x20 != 0
	size := []int{0, 1, 2, 4}[flags&3] + []int{0, 2, 4, 8}[flags>>6]
	if single && flags>>6 == 0 || !single {
		size++ // a content size of one byte, or the window descriptor
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(z.s, rest); err != nil {
		return truncated(err)
	}
	z.began, z.checksum = true, flags&4 != 0
	z.pending = append(head, rest...)
	return nil
}

func (z *zstdFrame) block() error {
	head := make([]byte, 3)
	if _, err := io.ReadFull(z.s, head); err != nil {
		return truncated(err)
	}
	v := uint32(head[0]) | uint32(head[1])<<8 | uint32(head[2])<<16
	z.last = v&1 != 0
	z.left = int64(v >> 3)
	switch v >> 1 & 3 {
	case 1:
		z.left = 1 // one byte, repeated
	case 3:
		return errors.New("reserved block type")
	}
	z.pending = head
	return nil
}

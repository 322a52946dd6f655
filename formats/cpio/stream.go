package cpio

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"hyper2kvm/formats"
)

// stream is a buffered reader that knows where it is. Decompressors read from
// it byte by byte and so take no byte more than their own.
type stream struct {
	br  *bufio.Reader
	pos int64
}

func newStream(r io.Reader) *stream {
	return &stream{br: bufio.NewReaderSize(r, 64<<10)}
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.br.Read(p)
	s.pos += int64(n)
	return n, err
}

func (s *stream) ReadByte() (byte, error) {
	b, err := s.br.ReadByte()
	if err == nil {
		s.pos++
	}
	return b, err
}

// unread puts back bytes that were just read.
func (s *stream) unread(p []byte) {
	s.br = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(p)), s.br), 64<<10)
	s.pos -= int64(len(p))
}

func (s *stream) discard(n int64) error {
	for n > 0 {
		step, err := s.br.Discard(int(min(n, 1<<30)))
		s.pos += int64(step)
		n -= int64(step)
		if err != nil {
			return truncated(err)
		}
	}
	return nil
}

// align goes to the next multiple of 4.
func (s *stream) align() error { return s.discard(-s.pos & 3) }

// skipZeros goes past zero bytes and returns the next 6 bytes, fewer before the
// end, without reading them.
func (s *stream) skipZeros() ([]byte, error) {
	for {
		b, err := s.ReadByte()
		if err != nil {
			return nil, err
		}
		if b != 0 {
			break
		}
	}
	if err := s.br.UnreadByte(); err != nil {
		return nil, err
	}
	s.pos--
	magic, err := s.br.Peek(6)
	if len(magic) > 0 {
		err = nil
	}
	return magic, err
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", formats.ErrTruncated, io.ErrUnexpectedEOF)
	}
	return err
}

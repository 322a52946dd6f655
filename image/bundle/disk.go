package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"

	"hyper2kvm/formats"
	"hyper2kvm/formats/ovf"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/hostfile"
)

// maxCapacity bounds a disk that exists only as a number, in bytes: VMware's own
// limit is 62 TiB.
const maxCapacity = 64 << 40

// openDisk opens one disk with all it stands on.
func (b *Bundle) openDisk(ctx context.Context, d ovf.Disk) (*chain.Chain, error) {
	if d.File == nil {
		return b.blank(d)
	}
	dir, onHost := b.folder.(*directory)
	if onHost && !zipped(*d.File) && d.File.Chunk == 0 && len(d.Parents) == 0 {
		c, err := b.openBeside(dir, d.File.Name)
		if !errors.Is(err, fs.ErrNotExist) || errorsInChain(err) {
			return c, err
		}
	}
	f, err := b.file(ctx, *d.File, d.Capacity)
	if err != nil {
		return nil, err
	}
	// What an image names is looked for beside it; what is not there may be the
	// parent that the descriptor names.
	parents := d.Parents
	return chain.OpenWithin(f, b.folder.host(), chain.Policy{}, func(name string) (formats.File, error) {
		f, err := b.folder.open(name)
		if err == nil || len(parents) == 0 {
			return f, err
		}
		next := parents[0]
		parents = parents[1:]
		return b.file(ctx, next, d.Capacity)
	})
}

// openBeside opens a disk that is a file of the host as such, so that its bytes
// can be copied by the kernel.
func (b *Bundle) openBeside(dir *directory, href string) (*chain.Chain, error) {
	c, err := chain.OpenNamed(dir.dir, href, dir.policy)
	if err == nil {
		dir.note(c.Files())
	}
	return c, err
}

// errorsInChain says that an error is of a file that an image names, not of the
// image itself.
func errorsInChain(err error) bool {
	_, ok := errors.AsType[*chain.BrokenError](err)
	return ok
}

// blank is a disk that the descriptor has only the size of.
func (b *Bundle) blank(d ovf.Disk) (*chain.Chain, error) {
	if d.Capacity <= 0 || d.Capacity > maxCapacity {
		return nil, fmt.Errorf("no file, and a capacity of %d bytes: %w", d.Capacity, ErrDescriptor)
	}
	b.warn("disk %q has no file: it is made new and empty", d.ID)
	return chain.Single(blank(d.Capacity), b.Path+"/"+d.ID, b.folder.host()), nil
}

// blank is an empty disk of that many bytes.
type blank int64

func (d blank) Size() int64 { return int64(d) }

func (d blank) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, fmt.Errorf("read empty disk at negative offset %d", off)
	case off >= int64(d):
		return 0, io.EOF
	case int64(len(p)) > int64(d)-off:
		clear(p[:int64(d)-off])
		return int(int64(d) - off), io.EOF
	}
	clear(p)
	return len(p), nil
}

func (d blank) Extent(off, limit int64) (formats.Extent, error) {
	if off < 0 || off >= int64(d) || limit <= 0 {
		return formats.Extent{}, fmt.Errorf("extent of empty disk at %d, limit %d: outside of %d bytes", off, limit, int64(d))
	}
	return formats.Extent{Offset: off, Length: min(limit, int64(d)-off), Kind: formats.Zero}, nil
}

func (d blank) Info() formats.Info {
	return formats.Info{Format: "raw", Variant: "empty", Size: int64(d), Sector: 512}
}

// zipped says that a file is compressed as a whole.
func zipped(f ovf.File) bool { return f.Gzip || strings.HasSuffix(strings.ToLower(f.Name), ".gz") }

// file opens a file of the package: joined where it is cut into pieces, and
// unpacked where it is compressed.
func (b *Bundle) file(ctx context.Context, want ovf.File, capacity int64) (formats.File, error) {
	f, err := openHref(b.folder, want.Name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = b.pieces(want, err)
	}
	if err != nil {
		return f, missing(err)
	}
	if want.Size >= 0 && f.Size != want.Size && b.Kind != "vmx" {
		b.warn("%s has %d bytes, the descriptor says %d", f.Name, f.Size, want.Size)
	}
	mark := make([]byte, 2)
	if !zipped(want) || f.Size < 2 {
		return f, nil
	}
	if err := formats.ReadFull(f, mark, 0); err != nil || string(mark) != "\x1f\x8b" {
		return f, err // it is called compressed, and is not
	}
	t, err := b.unpack(ctx, f, capacity)
	if err != nil {
		return formats.File{}, fmt.Errorf("unpack %s: %w", f.Name, err)
	}
	b.temps = append(b.temps, t)
	return formats.File{ReaderAt: t, Size: t.Size(), Name: strings.TrimSuffix(f.Name, ".gz")}, nil
}

// unpack copies what f is compressed from into a file that has no name any more,
// so that it is gone with the process. No more than the disk's capacity, and an
// eighth for the format, is written; deflate itself gives at most some thousand
// times what is there.
func (b *Bundle) unpack(ctx context.Context, f formats.File, capacity int64) (*hostfile.File, error) {
	zr, err := gzip.NewReader(io.NewSectionReader(f, 0, f.Size))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, formats.ErrCorrupt)
	}
	out, err := os.CreateTemp(b.policy.TempDir, "h2k-unpacked-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(out.Name()); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	limit := int64(maxCapacity)
	if capacity > 0 && capacity < maxCapacity {
		limit = capacity + capacity/8 + 64<<20
	}
	n, err := copySparse(ctx, out, zr, limit)
	if err == nil {
		err = out.Truncate(n)
	}
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return hostfile.New(out)
}

// copySparse copies at most limit bytes, and leaves holes where there are zeroes.
func copySparse(ctx context.Context, out io.WriterAt, in io.Reader, limit int64) (int64, error) {
	buf := make([]byte, 256<<10)
	for done := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n, err := fill(in, buf)
		if done+int64(n) > limit {
			return done, fmt.Errorf("more than %d bytes: %w", limit, formats.ErrCorrupt)
		}
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			if _, err := out.WriteAt(buf[:n], done); err != nil {
				return done, err
			}
		}
		done += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return done, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return done, fmt.Errorf("%w: %w", err, formats.ErrTruncated)
		case err != nil:
			return done, fmt.Errorf("%w: %w", err, formats.ErrCorrupt)
		}
	}
}

// fill reads until p is full or in ends. io.ReadFull would do, but for what is
// cut off: that ends in io.ErrUnexpectedEOF itself.
func fill(in io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = in.Read(p[n:])
		n += m
	}
	return n, err
}

// pieces joins NAME.000000000, NAME.000000001 and so on (DSP0243 2.1.1, 7.1).
func (b *Bundle) pieces(want ovf.File, none error) (formats.File, error) {
	j := &joined{}
	for i := 0; ; i++ {
		f, err := openHref(b.folder, fmt.Sprintf("%s.%09d", want.Name, i))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return f, err
		}
		j.parts = append(j.parts, f)
		j.size += f.Size
	}
	if len(j.parts) == 0 {
		return formats.File{}, none
	}
	if want.Size >= 0 && j.size != want.Size {
		return formats.File{}, fmt.Errorf("%d pieces of %q have %d bytes, the descriptor says %d: %w",
			len(j.parts), want.Name, j.size, want.Size, formats.ErrTruncated)
	}
	name := j.parts[0].Name
	return formats.File{ReaderAt: j, Size: j.size, Name: strings.TrimSuffix(name, filepath.Ext(name))}, nil
}

// joined reads pieces as one file.
type joined struct {
	parts []formats.File
	size  int64
}

func (j *joined) Size() int64 { return j.size }

func (j *joined) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for _, part := range j.parts {
		if done == len(p) {
			return done, nil
		}
		if off >= part.Size {
			off -= part.Size
			continue
		}
		n := int(min(int64(len(p)-done), part.Size-off))
		if err := formats.ReadFull(part, p[done:done+n], off); err != nil {
			return done, err
		}
		done, off = done+n, 0
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

package buildimage

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// kernel is an unpacked kernel package.
type kernel struct {
	version string
	image   string // path of vmlinuz
	modules string // folder of the modules
	byName  map[string]string
	builtin []string
}

// openKernel finds the one kernel in a tree.
func openKernel(tree string) (*kernel, error) {
	images, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, fmt.Errorf("look for kernel in %s: %w", tree, err)
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("look for kernel in %s: %d files boot/vmlinuz-*, want one", tree, len(images))
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	k := &kernel{version: version, image: images[0]}
	for _, prefix := range []string{"lib", "usr/lib"} {
		dir := filepath.Join(tree, prefix, "modules", version)
		if _, err := os.Stat(dir); err == nil {
			k.modules = dir
			return k, k.index()
		}
	}
	return nil, fmt.Errorf("look for modules of kernel %s in %s: %w", version, tree, os.ErrNotExist)
}

// write copies the kernel and, where its compression is known, unpacks it.
func (k *kernel) write(out string) error {
	data, err := os.ReadFile(k.image)
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	if err := os.WriteFile(filepath.Join(out, Vmlinuz), data, 0o644); err != nil {
		return fmt.Errorf("write kernel: %w", err)
	}
	elfFile, err := unpackKernel(data)
	if errors.Is(err, errPacking) {
		return nil // it starts all the same, only later
	}
	if err != nil {
		return fmt.Errorf("unpack kernel %s: %w", k.image, err)
	}
	if err := os.WriteFile(filepath.Join(out, Vmlinux), elfFile, 0o644); err != nil {
		return fmt.Errorf("write kernel: %w", err)
	}
	return nil
}

var errPacking = errors.New("unknown compression")

// maxKernel bounds an unpacked kernel, in bytes.
const maxKernel = 512 << 20

// unpackKernel takes the ELF file out of a bzImage (Linux,
// Documentation/arch/x86/boot.rst: setup_sects at 0x1f1, payload_offset at
// 0x248 and payload_length at 0x24c, counted from the end of the setup).
func unpackKernel(image []byte) ([]byte, error) {
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	setup := int64(image[0x1f1])
	if setup == 0 {
		setup = 4
	}
	offset := (setup+1)*512 + int64(binary.LittleEndian.Uint32(image[0x248:]))
	length := int64(binary.LittleEndian.Uint32(image[0x24c:]))
	if length < 8 || offset+length > int64(len(image)) {
		return nil, fmt.Errorf("payload of %d bytes at %d in a file of %d", length, offset, len(image))
	}
	payload := image[offset : offset+length]
	r, err := decompressor(payload)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxKernel))
	// The payload ends with the unpacked size, which is no part of the stream:
	// a decompressor may stumble over it after all is done.
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	if int64(len(data)) != size {
		return nil, fmt.Errorf("%d bytes unpacked, %d announced: %w", len(data), size, errors.Join(err, errPacking))
	}
	if _, err := elf.NewFile(bytes.NewReader(data)); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return data, nil
}

// decompressor reads what begins with one of the magic numbers that kernels
// and modules use.
func decompressor(data []byte) (io.Reader, error) {
	in := bytes.NewReader(data)
	switch {
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxKernel))
	case bytes.HasPrefix(data, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xz.NewReader(in)
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case bytes.HasPrefix(data, []byte{0x02, 0x21, 0x4c, 0x18}), bytes.HasPrefix(data, []byte{0x04, 0x22, 0x4d, 0x18}):
		return lz4.NewReader(in), nil
	}
	return nil, errPacking
}

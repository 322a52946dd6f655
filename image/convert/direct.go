package convert

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Direct I/O moves data between a block device and our buffers past the page
// cache: a disk that is larger than the memory would push all else out of it.
// What is not aligned, the rest of a cluster or compressed data, goes the usual
// way; the kernel keeps the two from contradicting each other.

// directAlign is what direct I/O asks of offsets, lengths and buffers, in bytes:
// the largest sector that is in use.
const directAlign = 4096

// openDirect opens a block device a second time, for direct I/O; nil where the
// system does not have that.
func openDirect(f *os.File, flag int) *os.File {
	d, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flag|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return d
}

// alignedBuffer makes a buffer for direct I/O.
func alignedBuffer(n int64) []byte {
	b := make([]byte, n+directAlign-1)
	off := -address(b) & (directAlign - 1)
	return b[off : off+uintptr(n) : off+uintptr(n)]
}

func address(p []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(p))) }

// directPart is how much of p, counted from its begin, can be moved directly
// from or to off.
func directPart(p []byte, off int64) int {
	if off%directAlign != 0 || address(p)%directAlign != 0 {
		return 0
	}
	return len(p) / directAlign * directAlign
}

// writeOut writes to the output, as directly as can be.
func (c *copier) writeOut(p []byte, host int64) error {
	if n := directPart(p, host); c.directOut != nil && n > 0 {
		_, err := c.directOut.WriteAt(p[:n], host)
		switch {
		case err == nil:
			p, host = p[n:], host+int64(n)
		case !errors.Is(err, unix.EINVAL): // that a device asks for more than our alignment
			return fmt.Errorf("write output: %w", err)
		}
	}
	if len(p) == 0 {
		return nil
	}
	if _, err := c.out.WriteAt(p, host); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// readDirect reads from the begin of p what can be read directly from a device
// of the source, and says how much that was.
func (c *copier) readDirect(p []byte, src *os.File, off int64) int {
	d, n := c.devices[src], directPart(p, off)
	if d == nil || n == 0 {
		return 0
	}
	// What goes wrong is met again, and told, where the rest is read.
	done, _ := d.ReadAt(p[:n], off)
	return max(done, 0) / directAlign * directAlign
}

// closeDirect closes what was opened for direct I/O.
func (c *copier) closeDirect() {
	if c.directOut != nil {
		c.directOut.Close()
	}
	for _, d := range c.devices {
		if d != nil {
			d.Close()
		}
	}
}

package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/image/publish"
)

// A block device as output differs from a file: what is not written keeps its
// old content, nothing is cut off at the end, and there is no name that could
// appear when all is done. Instead the begin of the device is kept empty until
// the rest is synced, so that nobody takes for whole what is not.

// headBytes is what is written last: partition table or boot sector of a raw
// disk, the header of a qcow2.
const headBytes = 4096

// wipeBytes is how much is zeroed at a time, between looks at the context.
const wipeBytes = 256 << 20

// checkDevice refuses, before anything is written, what cannot be on a device.
func (c *copier) checkDevice(opt Options) error {
	if opt.Format != "raw" && opt.Format != "qcow2" {
		return fmt.Errorf("%s on a block device: %w", opt.Format, ErrOptions)
	}
	size, err := c.out.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("size of block device: %w", err)
	}
	if opt.Format == "raw" && size < c.disk.Size() {
		return fmt.Errorf("%s has %d bytes, the disk %d: %w", c.out.Name(), size, c.disk.Size(), ErrNoSpace)
	}
	c.keepsOld, c.fills = true, opt.Format == "raw"
	c.directOut = openDirect(c.out, os.O_RDWR)
	return nil
}

// beginDevice makes an output device ready: what is on it is hidden, and what
// will read as zeroes is made so.
func (c *copier) beginDevice(ctx context.Context) error {
	if c.from == 0 {
		size, err := c.out.Seek(0, io.SeekEnd)
		if err != nil {
			return fmt.Errorf("size of block device: %w", err)
		}
		// The end, too: a label there, of RAID for one, would be found again.
		edge := min(size, publish.EdgeBytes)
		for _, off := range []int64{0, size - edge} {
			if err := wipe(ctx, c.out, off, edge); err != nil {
				return err
			}
		}
	}
	if !c.fills {
		return nil
	}
	return c.wipeHoles(ctx)
}

// wipeHoles zeroes what the source does not have, before the copy fills in
// what it has.
func (c *copier) wipeHoles(ctx context.Context) error {
	for off := c.from; off < c.size; {
		e, err := c.disk.Extent(off, c.size-off)
		if err != nil {
			return fmt.Errorf("map of the source: %w", err)
		}
		if e.Kind != formats.Data {
			if err := wipe(ctx, c.out, off, e.Length); err != nil {
				return err
			}
		}
		off += e.Length
	}
	return nil
}

// wipe zeroes a part of a device: whole pages by the device itself or the
// kernel, which is quick where the device can, the rest by writing.
func wipe(ctx context.Context, f *os.File, off, length int64) error {
	zero := make([]byte, headBytes)
	for end := off + length; off < end; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(headBytes-off%headBytes, end-off)
		var err error
		if whole := min(end-off, wipeBytes) / headBytes * headBytes; off%headBytes == 0 && whole > 0 {
			n, err = whole, zeroOut(f, off, whole)
		} else {
			_, err = f.WriteAt(zero[:n], off)
		}
		if err != nil {
			return fmt.Errorf("zero %d bytes of %s at %d: %w", n, f.Name(), off, err)
		}
		off += n
	}
	return nil
}

// zeroOut is ioctl BLKZEROOUT (linux/fs.h): start and length, in bytes.
func zeroOut(f *os.File, off, length int64) error {
	span := [2]uint64{uint64(off), uint64(length)}
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&span)))
		switch {
		case errno == 0:
			return nil
		case !errors.Is(errno, unix.EINTR):
			return errno
		}
	}
}

// completeDevice writes the head, which puts everything else to use.
func (c *copier) completeDevice() error {
	if err := c.out.Sync(); err != nil {
		return fmt.Errorf("sync output: %w", err)
	}
	if !c.fills {
		return nil // a format writes its header last
	}
	head := make([]byte, min(headBytes, c.size))
	if n, err := c.disk.ReadAt(head, 0); n < len(head) {
		return fmt.Errorf("read source at guest offset 0: %w", err)
	}
	if _, err := c.out.WriteAt(head, 0); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// abandonDevice hides what is on a device after an error.
func (c *copier) abandonDevice() error {
	_, err := c.out.WriteAt(make([]byte, headBytes), 0)
	return err
}

// span is a run of bytes of an output.
type span struct{ off, length int64 }

// passOn has the kernel write what went to a device by way of the page cache
// right away and, one window later, forget it.
func (w *worker) passOn(writes []chunk) {
	fd := int(w.out.Fd())
	for _, s := range w.behind {
		// Only hints: what goes wrong here, the sync at the end tells.
		_ = unix.SyncFileRange(fd, s.off, s.length, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
		_ = unix.Fadvise(fd, s.off, s.length, unix.FADV_DONTNEED)
	}
	w.behind = w.behind[:0]
	for _, c := range writes {
		w.behind = append(w.behind, span{c.host, int64(len(c.data))})
	}
}

// forget drops what was read of devices by way of the page cache from it.
func (w *worker) forget(win *window) {
	for _, r := range win.runs {
		if r.Plain == nil {
			continue
		}
		f := osFile(r.Plain.File)
		if _, device := w.devices[f]; device {
			_ = unix.Fadvise(int(f.Fd()), r.Plain.Offset, r.Length, unix.FADV_DONTNEED)
		}
	}
}

package convert

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// osFile gives the open file behind a reader, nil when there is none.
func osFile(r io.ReaderAt) *os.File {
	switch f := r.(type) {
	case *os.File:
		return f
	case interface{ OSFile() *os.File }:
		return f.OSFile()
	}
	return nil
}

// sharesBlocks reports whether the file system of f can make two files share
// their blocks, or copies on a server. There a copy by the kernel costs next to
// nothing (measured: a tenth of reading and writing, on XFS and btrfs); on
// others, ext4 among them, it is a little slower than our own.
func sharesBlocks(f *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.BTRFS_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BCACHEFS_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC, zfsMagic,
		unix.NFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC:
		return true
	}
	return false
}

// zfsMagic is ZFS_SUPER_MAGIC of OpenZFS, which is not in the kernel.
const zfsMagic = 0x2fc12fc1

// sameDevice reports whether two open files lie on one file system.
func sameDevice(a, b *os.File) bool {
	var x, y unix.Stat_t
	return unix.Fstat(int(a.Fd()), &x) == nil && unix.Fstat(int(b.Fd()), &y) == nil && x.Dev == y.Dev
}

// write moves a chunk into the output.
func (w *worker) write(c chunk) error {
	if c.plain != nil {
		done, err := w.offload(c)
		if err != nil {
			return err
		}
		// What the kernel did not copy is read and written like all else.
		c.host += done
		c.data = c.data[done:]
		if len(c.data) == 0 {
			return nil
		}
		if n, err := c.plain.File.ReadAt(c.data, c.plain.Offset+done); n < len(c.data) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read source file at offset %d: %w", c.plain.Offset+done, err)
		}
	}
	return w.put(c.data, c.host)
}

// holeBytes is the granularity in which a new file is left empty: the usual
// block of file systems. Units are often larger, and zero for the most part.
const holeBytes = 4096

// put writes bytes at host. What is zero in a new file stays unwritten.
func (w *worker) put(p []byte, host int64) error {
	if w.fills && host < headBytes {
		p, host = p[min(headBytes-host, int64(len(p))):], headBytes
	}
	for len(p) > 0 {
		var n int
		if !w.keepsOld {
			n = zeroRun(p, host, true)
			p, host = p[n:], host+int64(n)
			n = zeroRun(p, host, false)
		} else {
			n = len(p)
		}
		if n == 0 {
			continue
		}
		if err := w.writeOut(p[:n], host); err != nil {
			return err
		}
		p, host = p[n:], host+int64(n)
	}
	return nil
}

// zeroRun is how many bytes at the begin of p, in blocks of the file, are all zero,
// or are not.
func zeroRun(p []byte, host int64, zero bool) int {
	n := 0
	for n < len(p) {
		step := min(holeBytes-int((host+int64(n))%holeBytes), len(p)-n)
		if isZero(p[n:n+step]) != zero {
			break
		}
		n += step
	}
	return n
}

// offload has the kernel copy a chunk, as far as it can: that saves a copy
// through our memory, and all copying where the file system shares blocks.
func (w *worker) offload(c chunk) (done int64, err error) {
	src := osFile(c.plain.File)
	for done < int64(len(c.data)) && !w.noOffload.Load() {
		from, to := c.plain.Offset+done, c.host+done
		n, err := unix.CopyFileRange(int(src.Fd()), &from, int(w.out.Fd()), &to, len(c.data)-int(done), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO):
			return done, fmt.Errorf("copy %d bytes into output: %w", int64(len(c.data))-done, err)
		case err != nil || n == 0:
			// Other file systems, other kernels, devices: read and write instead.
			w.noOffload.Store(true)
			return done, nil
		}
		done += int64(n)
	}
	return done, nil
}

// flush has the kernel begin to write out what was just written, so that the
// disk works while more is read, and the sync at the end finds little to do.
func (w *worker) flush(writes []chunk) {
	for _, c := range writes {
		// Only a hint: what goes wrong here, the sync at the end tells.
		_ = unix.SyncFileRange(int(w.out.Fd()), c.host, int64(len(c.data)), unix.SYNC_FILE_RANGE_WRITE)
	}
	if w.keepsOld {
		w.passOn(writes)
	}
}

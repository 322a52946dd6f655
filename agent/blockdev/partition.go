package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"hyper2kvm/fixes/guest"
)

// added is a partition that this package had the kernel add.
type added struct {
	disk   string
	number int
}

// ensurePartition has the kernel know a partition where its own reading of the
// table did not find it: a kernel without that kind of table, or a table made
// for another sector size.
func (d *Devices) ensurePartition(disk *os.File, p guest.Partition) error {
	if info, err := disk.Stat(); err != nil || info.Mode().IsRegular() {
		return err // a plain file has no partitions to mount
	}
	sys := "/sys/class/block/" + filepath.Base(PartitionNode(disk.Name(), p.Number))
	start, err := sysNumber(sys + "/start")
	if err == nil {
		size, err := sysNumber(sys + "/size")
		if err == nil && (start*512 != p.Start || size*512 != p.Size) && !isExtended(p) {
			err = fmt.Errorf("the kernel has partition %d of %s at %d with %d bytes, its table at %d with %d", p.Number, disk.Name(), start*512, size*512, p.Start, p.Size)
		}
		return err
	}
	if !errors.Is(err, os.ErrNotExist) || isExtended(p) {
		return nil
	}
	if err := blkpg(disk, unix.BLKPG_ADD_PARTITION, p); err != nil {
		return fmt.Errorf("add partition %d of %s: %w", p.Number, disk.Name(), err)
	}
	d.partitions = append(d.partitions, added{disk.Name(), p.Number})
	return nil
}

// isExtended reports whether a partition only holds others.
func isExtended(p guest.Partition) bool {
	return p.Type == "0x5" || p.Type == "0xf" || p.Type == "0x85"
}

// sysNumber reads a number of sectors of 512 bytes from sysfs.
func sysNumber(name string) (int64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// blkpg is the ioctl BLKPG of linux/blkpg.h.
func blkpg(disk *os.File, op int32, p guest.Partition) error {
	part := unix.BlkpgPartition{Start: p.Start, Length: p.Size, Pno: int32(p.Number)}
	arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}

// dropPartitions has the kernel forget what ensurePartition added.
func (d *Devices) dropPartitions() error {
	var errs []error
	for _, a := range d.partitions {
		f, err := os.Open(a.disk)
		if err == nil {
			err = errors.Join(blkpg(f, unix.BLKPG_DEL_PARTITION, guest.Partition{Number: a.number}), f.Close())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("drop partition %d of %s: %w", a.number, a.disk, err))
		}
	}
	d.partitions = nil
	return errors.Join(errs...)
}

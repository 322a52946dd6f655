package chain

import "hyper2kvm/formats"

// SectorSize is the logical sector size, in bytes, that the guest must see: as
// the image or the device records it, else as the guest's own partition table
// shows it. A table written for sectors of 4096 bytes means other places when
// it is read with sectors of 512.
func (c *Chain) SectorSize() int64 {
	if s := c.images[0].Info.Sector; s != 0 && s != 512 {
		return s
	}
	if len(c.files) == 1 {
		if s, ok := c.files[0].SectorSize(); ok {
			return s
		}
	}
	return tableSectorSize(c)
}

// tableSectorSize looks for the header of a GPT, which lies in the second
// sector (UEFI specification, 5.3.2).
func tableSectorSize(d formats.Disk) int64 {
	for _, size := range []int64{512, 4096} {
		mark := make([]byte, 8)
		if _, err := d.ReadAt(mark, size); err == nil && string(mark) == "EFI PART" {
			return size
		}
	}
	return 512
}

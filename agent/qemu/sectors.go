package qemu

import "fmt"

// Sectors is what the -device argument of a disk ends with, so that the guest
// sees logical sectors of size bytes; nothing for 512, which is QEMU's choice.
func Sectors(size int64) string {
	if size == 0 || size == 512 {
		return ""
	}
	return fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", size, size)
}

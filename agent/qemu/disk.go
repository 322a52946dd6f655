package qemu

import "fmt"

// DiskOptions is what the -device argument of every disk ends with. Errors are
// the guest's to see: by default QEMU stops a machine whose host has no space
// left, and whoever waits for its guest waits for ever. The guest sees logical
// sectors of the given size in bytes; 0 is 512.
func DiskOptions(sector int64) string {
	options := ",werror=report,rerror=report"
	if sector != 0 && sector != 512 {
		options += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", sector, sector)
	}
	return options
}

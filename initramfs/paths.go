package initramfs

import "fmt"

// DiskPath is the path of disk number i inside the appliance.
func DiskPath(i int) string { return fmt.Sprintf("%s/disk%d", DiskFolder, i) }

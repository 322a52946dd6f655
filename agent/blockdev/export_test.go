package blockdev

// LVMConfig is what lvm is given.
func LVMConfig(devices []string) string { return lvmConfig(devices) }

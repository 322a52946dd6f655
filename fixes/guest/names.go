package guest

// SplitMapper takes a device-mapper name of LVM apart: group and volume.
func SplitMapper(name string) (vg, lv string, ok bool) { return splitMapper(name) }

// UnescapeUdev undoes the \xHH that udev and blkid write for what may not stand
// in a name.
func UnescapeUdev(s string) string { return unescapeUdev(s) }

package inspect

// Unescape undoes the \040 and its like that stand in mount tables: fstab, and
// the kernel's own under /proc.
func Unescape(s string) string { return unescapeFstab(s) }

package host

import "golang.org/x/sys/cpu"

// Level is the x86-64 level of this host's processor (x86-64 psABI,
// "Micro-Architecture Levels"), as far as programs need it: 1 to 3; 0 is another
// kind of processor.
func Level() int {
	x := cpu.X86
	switch {
	case !x.HasSSE2:
		return 0
	case !x.HasCX16 || !x.HasPOPCNT || !x.HasSSE3 || !x.HasSSSE3 || !x.HasSSE41 || !x.HasSSE42:
		return 1
	case !x.HasAVX || !x.HasAVX2 || !x.HasBMI1 || !x.HasBMI2 || !x.HasFMA || !x.HasOSXSAVE:
		return 2
	}
	return 3
}

package bundle

import (
	"path/filepath"
	"strings"

	"hyper2kvm/image/hostfile"
)

// Is reports whether the file is one that Open opens: what is called .ova, .ovf
// or .vmx, or a tar archive whose first member is an OVF descriptor. Other
// archives, and texts, are none: a raw disk's first bytes are whatever its guest
// wrote there.
func Is(name string) bool {
	f, err := hostfile.Open(name)
	if err != nil {
		return false // who opens it next says why
	}
	kind := kindOf(f)
	return f.Close() == nil && kind != ""
}

// kindOf tells what f is, "" for nothing that is read here.
func kindOf(f *hostfile.File) string {
	info, err := f.OSFile().Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	head := make([]byte, min(f.Size(), 512))
	if n, _ := f.ReadAt(head, 0); n < len(head) {
		return ""
	}
	ext := strings.ToLower(filepath.Ext(f.Name()))
	switch {
	case len(head) == 0:
		return ""
	case ext == ".ova", ext == ".ovf", ext == ".vmx":
		return ext[1:]
	case isTar(head) && strings.HasSuffix(firstMember(head), ".ovf"):
		return "ova"
	}
	return ""
}

// isTar looks for the mark of POSIX's and GNU's tar (ustar, offset 257).
func isTar(head []byte) bool { return len(head) == 512 && string(head[257:262]) == "ustar" }

// firstMember is the name in the first header of a tar file.
func firstMember(head []byte) string {
	name, _, _ := strings.Cut(string(head[:100]), "\x00")
	return strings.ToLower(name)
}

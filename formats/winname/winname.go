// Package winname reads the names of files that Windows writes into disk images:
// UTF-16, with backslashes, and absolute ones that mean nothing here.
package winname

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"
)

// UTF16 decodes text up to its end or the first zero.
func UTF16(b []byte, order binary.ByteOrder) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := order.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// First is the name to look for: the relative one if there is one, else the last
// part of the first absolute one that is there.
func First(rel string, absolute ...string) string {
	name := relative(rel)
	for _, a := range absolute {
		if name == "" {
			name = base(a)
		}
	}
	return name
}

// relative is a path in the words of this system. A file in the same folder has
// no folder in its name.
func relative(name string) string {
	name = strings.ReplaceAll(name, `\`, "/")
	for strings.HasPrefix(name, "./") {
		name = strings.TrimLeft(name[2:], "/")
	}
	return name
}

func base(name string) string {
	name = strings.ReplaceAll(name, `\`, "/")
	return name[strings.LastIndexByte(name, '/')+1:]
}

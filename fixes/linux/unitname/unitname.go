// Package unitname turns paths into names of systemd units and back, as
// systemd-escape --path does: a unit for /dev/sda1 is dev-sda1.device, and a
// swap's unit must be called after its device (systemd.unit(5), "String
// Escaping for Inclusion in Unit Names").
package unitname

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Escape is the unit of a path, with a suffix as ".device".
func Escape(name, suffix string) string {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" {
		return "-" + suffix
	}
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c == '/':
			b.WriteByte('-')
		case plain(c) && (c != '.' || i > 0):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String() + suffix
}

// plain are the characters that stand for themselves.
func plain(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == ':' || c == '_' || c == '.'
}

// Unescape is the path that a unit of the given suffix is for; false for a name
// that no path has.
func Unescape(unit, suffix string) (string, bool) {
	name, ok := strings.CutSuffix(unit, suffix)
	if !ok || name == "" {
		return "", false
	}
	if name == "-" {
		return "/", true
	}
	var b strings.Builder
	b.WriteByte('/')
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '-':
			b.WriteByte('/')
		case c == '\\':
			if i+4 > len(name) || name[i+1] != 'x' {
				return "", false
			}
			n, err := strconv.ParseUint(name[i+2:i+4], 16, 8)
			if err != nil || n == 0 {
				return "", false
			}
			b.WriteByte(byte(n))
			i += 3
		case plain(c):
			b.WriteByte(c)
		default:
			return "", false
		}
	}
	if b.String() != path.Clean(b.String()) {
		return "", false
	}
	return b.String(), true
}

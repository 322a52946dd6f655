package linux

import (
	"regexp"
	"strings"
)

var (
	liloAppend = regexp.MustCompile(`^([ \t]*(?:append|addappend|literal|parameters)[ \t]*=[ \t]*")([^"]*)(".*)$`)
	liloInitrd = regexp.MustCompile(`(?m)^[ \t]*(?:initrd|ramdisk)[ \t]*=`)
	liloRoot   = regexp.MustCompile(`^([ \t]*root[ \t]*=[ \t]*)("?)([^"\s#]+)("?)(.*)$`)
)

// inLilo edits the configuration of LILO and of what took over its syntax: elilo
// (SUSE 10 and 11 with UEFI), which reads it at each boot, and zipl. The root
// stands in a setting of its own; a value with "=" in it takes quotes
// (lilo.conf(5)).
func inLilo(name string, data []byte, edit editLine) []byte {
	initramfs := liloInitrd.Match(data) // without one nobody looks for a UUID
	return eachLine(data, func(l string) string {
		if m := liloAppend.FindStringSubmatch(l); m != nil {
			return m[1] + editText(place{file: name, entry: true}, m[2], edit) + m[3]
		}
		m := liloRoot.FindStringSubmatch(l)
		if m == nil || m[2] != m[4] || !initramfs {
			return l
		}
		now := strings.TrimPrefix(editText(place{file: name, name: "root"}, "root="+m[3], edit), "root=")
		if now == m[3] {
			return l
		}
		return m[1] + `"` + now + `"` + m[5]
	})
}

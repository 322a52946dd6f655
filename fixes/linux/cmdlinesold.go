package linux

import (
	"regexp"
	"strings"

	"hyper2kvm/fixes/linux/shellvars"
)

// inBootloader edits what SUSE's perl-bootloader makes entries from: variables
// that end in APPEND (sysconfig.bootloader of perl-Bootloader).
func inBootloader(name string, data []byte, edit editLine) []byte {
	file := shellvars.Parse(data)
	for _, v := range file.Vars() {
		if strings.HasSuffix(v.Name, "APPEND") {
			v.Value = editText(place{file: name, name: v.Name}, v.Value, edit)
		}
	}
	return file.Bytes()
}

// liloLine matches what lilo.conf(5) and zipl.conf(5) hold of a command line. Their
// root= is left: LILO writes a tag as it stands, and without an initramfs no kernel
// takes one.
var liloLine = regexp.MustCompile(`^([ \t]*(append|addappend|literal|parameters)[ \t]*=[ \t]*)("?)([^"]*)("?[ \t]*)$`)

// inLilo edits the configurations that an installer of a boot loader reads: they
// take effect when it is run.
func inLilo(name string, data []byte, edit editLine) []byte {
	return eachLine(data, func(l string) string {
		m := liloLine.FindStringSubmatch(l)
		if m == nil || m[3] == "" && strings.Contains(m[5], `"`) {
			return l
		}
		return m[1] + m[3] + editText(place{file: name, name: m[2]}, m[4], edit) + m[5]
	})
}

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

// liloLine matches what lilo.conf(5) and zipl.conf(5) hold of a command line:
// append, literal and parameters hold arguments, root a device alone.
var liloLine = regexp.MustCompile(`^([ \t]*(append|addappend|literal|parameters|root)[ \t]*=[ \t]*)("?)([^"]*)("?[ \t]*)$`)

// inLilo edits the configurations that an installer of a boot loader reads: they
// take effect when it is run.
func inLilo(name string, data []byte, edit editLine) []byte {
	return eachLine(data, func(l string) string {
		m := liloLine.FindStringSubmatch(l)
		switch {
		case m == nil || m[3] == "" && strings.Contains(m[5], `"`):
			return l
		case m[2] != "root":
			return m[1] + m[3] + editText(place{file: name, name: m[2]}, m[4], edit) + m[5]
		}
		text := strings.TrimRight(m[4], " \t")
		now := strings.TrimPrefix(editText(place{file: name, name: "root"}, "root="+text, edit), "root=")
		if now == text || strings.ContainsAny(now, " \t") {
			return l
		}
		return m[1] + `"` + now + `"` + m[4][len(text):] + strings.TrimPrefix(m[5], `"`)
	})
}

package linux

import (
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

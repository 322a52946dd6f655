package inspect

import "strings"

// clock finds out whether the guest takes the machine's clock for local time, as
// one does that shared the machine with Windows. The third line of adjtime
// decides (hwclock(8), "The Adjtime File"); before it did, init's settings.
func (f *finder) clock() {
	if data, ok := f.read("etc/adjtime"); ok {
		if l := strings.Split(string(data), "\n"); len(l) > 2 {
			switch strings.TrimSpace(l[2]) {
			case "LOCAL":
				f.facts.Clock = "localtime"
				return
			case "UTC":
				return
			}
		}
	}
	for _, s := range []struct{ file, key string }{
		{"etc/sysconfig/clock", "UTC"},     // Red Hat
		{"etc/default/rcS", "UTC"},         // Debian
		{"etc/sysconfig/clock", "HWCLOCK"}, // SUSE
		{"etc/conf.d/hwclock", "clock"},    // OpenRC
	} {
		data, ok := f.read(s.file)
		if !ok {
			continue
		}
		switch strings.ToLower(shellVars(data)[s.key]) {
		case "no", "false", "0", "--localtime", "-l", "local":
			f.facts.Clock = "localtime"
		}
	}
}

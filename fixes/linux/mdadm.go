package linux

import (
	"strings"

	"hyper2kvm/fixes/guest"
)

func mdadm() fix {
	return fix{
		id:  "linux/mdadm",
		why: "A list of devices in mdadm.conf that names the old machine's disks keeps RAID arrays from being assembled on KVM.",
		plan: func(p *planner) error {
			for _, name := range p.once([]string{"etc/mdadm/mdadm.conf", "etc/mdadm.conf"}) {
				if data, ok := p.read(name); ok {
					p.write(name, data, mdadmConfig(p, name, data))
				}
			}
			return nil
		},
	}
}

// mdadmConfig edits mdadm.conf(5): a keyword begins in the first column, a line
// that begins with a blank goes on with the last one, and keywords may be
// shortened to three letters.
func mdadmConfig(p *planner, name string, data []byte) []byte {
	keyword, identity, lines := "", false, strings.Split(string(data), "\n")
	for i, l := range lines {
		body, _, _ := strings.Cut(l, "#")
		words := strings.Fields(body)
		if len(words) == 0 {
			continue
		}
		if begins := body[0] != ' ' && body[0] != '\t'; begins {
			keyword, identity = mdadmKeyword(words[0]), mdadmIdentity(lines[i:])
		}
		switch {
		case keyword == "device":
			lines[i] = mdadmDevices(l, words)
		case keyword == "array" && identity:
			lines[i] = withoutDevices(l)
		case keyword == "array" && withoutDevices(l) != l:
			p.note("%s: an array is told by nothing but its devices, which change: %q; left", name, strings.TrimSpace(l))
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

func mdadmKeyword(word string) string {
	word = strings.ToLower(word)
	for _, k := range []string{"device", "array"} {
		if len(word) >= 3 && strings.HasPrefix(k, word) {
			return k
		}
	}
	return word
}

// mdadmIdentity reports whether the entry that lines begin with tells its array
// by what is written on the members.
func mdadmIdentity(lines []string) bool {
	for i, l := range lines {
		if i > 0 && (l == "" || l[0] != ' ' && l[0] != '\t') {
			return false
		}
		body, _, _ := strings.Cut(strings.ToLower(l), "#")
		for _, word := range strings.Fields(body) {
			for _, key := range []string{"uuid=", "super-minor=", "name=", "member="} {
				if strings.HasPrefix(word, key) {
					return true
				}
			}
		}
	}
	return false
}

// mdadmDevices has every device looked at where a line lists some by names that
// break, patterns among them. What stands for other than devices stays.
func mdadmDevices(line string, words []string) string {
	at, end, broken := -1, 0, false
	from := 0
	for _, w := range words {
		start := from + strings.Index(line[from:], w)
		from = start + len(w)
		if !strings.HasPrefix(w, "/dev/") {
			continue
		}
		if at < 0 {
			at = start
		}
		end = from
		broken = broken || guest.Unstable(w) || unstablePattern(w)
	}
	if !broken {
		return line
	}
	now := "partitions"
	for _, w := range strings.Fields(line[at:end]) {
		if !strings.HasPrefix(w, "/dev/") && w != now {
			now += " " + w // "containers"
		}
	}
	return line[:at] + now + line[end:]
}

// unstablePattern reports whether a pattern of a shell matches kernel names.
func unstablePattern(word string) bool {
	i := strings.IndexAny(word, "*?[")
	if i < 0 {
		return false
	}
	for _, p := range []string{"/dev/sd", "/dev/hd", "/dev/xvd", "/dev/nvme", "/dev/cciss/", "/dev/disk/by-path/", "/dev/disk/by-id/"} {
		if strings.HasPrefix(word[:i], p) {
			return true
		}
	}
	return false
}

// withoutDevices takes devices= out of an ARRAY line, with the blanks before it.
func withoutDevices(line string) string {
	from := 0
	for _, w := range strings.Fields(line) {
		start := from + strings.Index(line[from:], w)
		from = start + len(w)
		list, ok := strings.CutPrefix(w, "devices=")
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(list, ",") {
			if guest.Unstable(name) || unstablePattern(name) {
				return strings.TrimRight(line[:start], " \t") + line[from:]
			}
		}
	}
	return line
}

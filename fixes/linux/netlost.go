package linux

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/cmdline"
)

// Bounds of the search for files that use a name or an address: a guest's etc
// is a few thousand small files.
const (
	maxSearched = 4000    // files and folders
	maxSmall    = 1 << 16 // bytes
	maxDeep     = 5
)

// small lists the small files below etc, whose number and depth are bounded.
func (n *naming) small() []string {
	if n.etc == nil {
		n.etc = []string{}
		n.walk("etc", maxDeep)
	}
	return n.etc
}

// dull are folders of etc that name no interface.
func dull() []string {
	return []string{"alternatives", "ssl", "pki", "selinux", "fonts", "X11", "terminfo", "ld.so.conf.d", "ca-certificates", "hyper2kvm", "skel", "xdg"}
}

func (n *naming) walk(dir string, deep int) {
	entries, err := n.fs.ReadDir(dir)
	if n.walked++; err != nil || deep == 0 {
		return
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case len(n.etc)+n.walked >= maxSearched || slices.Contains(dull(), e.Name()) || strings.HasPrefix(e.Name(), "shadow"):
		case e.IsDir():
			n.walk(name, deep-1)
		case e.Type().IsRegular() && !notConfig.MatchString(e.Name()):
			n.etc = append(n.etc, name)
		}
	}
}

// smallText gives what counts of a small file, "" for a large one.
func (n *naming) smallText(name string) string {
	if info, err := n.fs.Stat(name); err != nil || info.Size() > maxSmall {
		return ""
	}
	data, ok := n.pending(name)
	if !ok {
		return ""
	}
	return uncommented(data)
}

// strangers says which other files name an address that is no card's any more.
// What they are for only their owner knows.
func (n *naming) strangers() {
	if len(n.moved) == 0 {
		return
	}
	for _, name := range n.small() {
		for _, text := range slices.Compact(macText.FindAllString(n.smallText(name), -1)) {
			if n.follow(text) != text {
				n.note("%s: names the address %s, which is %s now; left", name, text, n.follow(text))
			}
		}
	}
}

// maxUses is how many files a note lists.
const maxUses = 8

// lostNames says which files use names that no card is sure to have: firewall
// zones, services, kernel arguments.
func (n *naming) lostNames() {
	n.argumentNames()
	for _, name := range n.lost {
		word := regexp.MustCompile(`(?:^|[^A-Za-z0-9_-])` + regexp.QuoteMeta(name) + `(?:$|[^A-Za-z0-9_-])`)
		var uses []string
		for _, file := range n.small() {
			if word.MatchString(strings.ReplaceAll(file, "-", "/")) || word.MatchString(n.smallText(file)) {
				uses = append(uses, file)
			}
		}
		if len(uses) > maxUses {
			n.note("%s is used by %s and %d more", name, strings.Join(uses[:maxUses], ", "), len(uses)-maxUses)
		} else if len(uses) > 0 {
			n.note("%s is used by %s", name, strings.Join(uses, ", "))
		}
	}
}

// argumentNames looks for names in the kernel's arguments (dracut.cmdline(7),
// nfsroot.rst of the kernel) that no card is sure to have in the initramfs.
func (n *naming) argumentNames() {
	known := map[string]bool{}
	for _, c := range n.nics {
		known[c.Name] = true
	}
	if len(n.lost) == 0 {
		for _, name := range n.loose {
			known[name] = true
		}
	}
	look := &planner{fs: n.fs, facts: n.facts}
	look.cmdlines(func(pl place, a *cmdline.Args) {
		for _, text := range a.All() {
			key, value, _ := cmdline.Split(text)
			for _, name := range argumentName(key, value) {
				if key == "ifname" {
					known[name] = true
				} else if !known[name] && !softName.MatchString(name) && !made(a, name) {
					n.note("%s: the kernel argument %s names %s, and which card that is is not known; left", pl.file, text, name)
				}
			}
		}
	})
}

// made reports whether another argument makes the interface of that name.
func made(a *cmdline.Args, name string) bool {
	for _, key := range []string{"vlan", "bond", "bridge", "team"} {
		for _, v := range a.Values(key) {
			if first, _, _ := strings.Cut(v, ":"); first == name {
				return true
			}
		}
	}
	return false
}

// argumentName gives the names of cards in one argument.
func argumentName(key, value string) []string {
	fields := outsideBrackets(value)
	var out []string
	switch {
	case key == "ip" && len(fields) >= 6:
		out = fields[5:6]
	case key == "ip" && len(fields) >= 2, key == "ifname":
		out = fields[:1]
	case key == "bootdev":
		out = []string{value}
	case (key == "vlan" || key == "bond" || key == "bridge" || key == "team") && len(fields) >= 2:
		out = strings.Split(fields[1], ",")
	}
	return slices.DeleteFunc(slices.Clone(out), func(s string) bool { return !cardName.MatchString(s) })
}

// outsideBrackets splits at colons that are not within [an IPv6 address].
func outsideBrackets(s string) []string {
	var out []string
	start, deep := 0, 0
	for i, c := range s {
		switch {
		case c == '[':
			deep++
		case c == ']':
			deep--
		case c == ':' && deep == 0:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

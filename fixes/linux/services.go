package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// A service that is switched off stays installed: its files are untouched, so
// that undo brings it back and so does the guest's own tool.

// unitDirs are where packages put systemd's units (systemd.unit(5)).
func unitDirs() []string { return []string{"usr/lib/systemd/system", "lib/systemd/system"} }

// switchOff keeps init from starting services, by whatever names they have: of
// a systemd unit with its suffix, of a script in init.d, of a job of upstart. It
// reports whether one of them is there.
func (p *planner) switchOff(names ...string) bool {
	found := false
	for _, name := range names {
		unit := name
		if !isUnitName(name) {
			unit += ".service"
		}
		script := strings.TrimSuffix(unit, ".service")
		found = p.maskUnit(unit, script) || found
		if isUnitName(script) {
			continue // a timer or a mount is systemd's alone
		}
		found = p.offUpstart(script) || found
		found = p.offScript(script) || found
	}
	return found
}

func isUnitName(name string) bool {
	return slices.Contains([]string{".service", ".timer", ".mount", ".socket", ".target"}, path.Ext(name))
}

// isUnit reports whether a package brings the unit as a file of its own: an
// alias is a link.
func (p *planner) isUnit(unit string) bool {
	for _, dir := range unitDirs() {
		if info, err := p.fs.Lstat(path.Join(dir, unit)); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// maskUnit masks a unit that a package brought, or that systemd makes of a
// script (systemd-sysv-generator(8)). One that an installer wrote into /etc
// cannot be masked without replacing it: what starts it is removed instead.
func (p *planner) maskUnit(unit, script string) bool {
	own := path.Join("etc/systemd/system", unit)
	target, err := p.fs.ReadLink(own)
	switch {
	case err == nil && target == "/dev/null":
		return true
	case err == nil && path.Base(target) != unit:
		return false // a second name for another unit
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return p.removeWants(unit) // a file
	case p.isUnit(unit), p.facts.Init == "systemd" && p.exists(path.Join("etc/init.d", script)):
		p.changes = append(p.changes, fixes.Symlink{Name: own, To: "/dev/null"})
		return true
	}
	return false
}

// removeWants removes the links by which other units start one.
func (p *planner) removeWants(unit string) bool {
	found := false
	for _, dir := range p.list("etc/systemd/system", "") {
		if ext := path.Ext(dir); ext != ".wants" && ext != ".requires" {
			continue
		}
		if link := path.Join(dir, unit); p.exists(link) {
			p.changes = append(p.changes, fixes.Remove{Name: link})
		}
	}
	if info, err := p.fs.Lstat(path.Join("etc/systemd/system", unit)); err == nil && info.Mode().IsRegular() {
		found = true
	}
	return found
}

// startOn is the stanza by which upstart starts a job (init(5)); it may go on
// over lines, in brackets.
var startOn = regexp.MustCompile(`^[ \t]*start[ \t]+on\b`)

// offUpstart keeps upstart from starting a job. An .override file is only read
// since upstart 1.3 (init(5), "Override files"); RHEL 6 has an older one.
func (p *planner) offUpstart(job string) bool {
	name := path.Join("etc/init", job+".conf")
	data, ok := p.read(name)
	if !ok || p.facts.Init != "" && p.facts.Init != "upstart" {
		return false
	}
	if p.like("rhel", "fedora", "centos", "amzn") {
		p.write(name, data, withoutStart(data))
		return true
	}
	override := path.Join("etc/init", job+".override")
	old, _ := p.read(override)
	if !slices.Contains(strings.Fields(string(old)), "manual") {
		p.write(override, nil, append(ended(old), "manual\n"...))
	}
	return true
}

// withoutStart comments a job's start stanza out.
func withoutStart(data []byte) []byte {
	depth, in := 0, false
	return eachLine(data, func(l string) string {
		if !in && !startOn.MatchString(l) {
			return l
		}
		depth += strings.Count(l, "(") - strings.Count(l, ")")
		in = depth > 0
		return "#" + l
	})
}

// ended is a text whose last line has an end.
func ended(data []byte) []byte {
	if len(data) > 0 && data[len(data)-1] != '\n' {
		return append(slices.Clone(data), '\n')
	}
	return slices.Clone(data)
}

// runlevelDirs are the folders of links that init's rc runs: of Debian, of Red
// Hat and of SUSE.
func runlevelDirs() []string {
	var out []string
	for _, level := range []string{"0", "1", "2", "3", "4", "5", "6", "S"} {
		for _, dir := range []string{"etc/rc%s.d", "etc/rc.d/rc%s.d", "etc/init.d/rc%s.d"} {
			out = append(out, fmt.Sprintf(dir, level))
		}
	}
	return out
}

var rcLink = regexp.MustCompile(`^([SK])([0-9][0-9])(.+)$`)

// offScript keeps rc and OpenRC from starting a script.
func (p *planner) offScript(script string) bool {
	found := p.exists(path.Join("etc/init.d", script)) || p.exists(path.Join("etc/rc.d/init.d", script))
	if !found || p.facts.Init == "systemd" {
		return found
	}
	for _, dir := range p.list("etc/runlevels", "") {
		if link := path.Join(dir, script); p.exists(link) {
			p.changes = append(p.changes, fixes.Remove{Name: link})
		}
	}
	seen := map[string]bool{}
	for _, dir := range runlevelDirs() {
		real, err := p.realDir(dir)
		if err != nil || seen[real] {
			continue
		}
		seen[real] = true
		p.offIn(real, script)
	}
	return true
}

// offIn turns the start link of a script into a stop link, as chkconfig and
// insserv do: with no link at all an update of the package would make new ones.
func (p *planner) offIn(dir, script string) {
	start, order, stops := "", 0, false
	for _, name := range p.list(dir, script) {
		m := rcLink.FindStringSubmatch(path.Base(name))
		switch {
		case m == nil || m[3] != script:
		case m[1] == "K":
			stops = true
		default:
			start = name
			order, _ = strconv.Atoi(m[2])
		}
	}
	if start == "" {
		return
	}
	p.changes = append(p.changes, fixes.Remove{Name: start})
	if target, err := p.fs.ReadLink(start); err == nil && !stops {
		p.changes = append(p.changes, fixes.Symlink{Name: path.Join(dir, fmt.Sprintf("K%02d%s", min(99, 100-order), script)), To: target})
	}
}

// realDir is a folder's name without links in it.
func (p *planner) realDir(dir string) (string, error) {
	info, err := p.fs.Stat(dir)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fs.ErrNotExist
	}
	return guest.Resolve(p.fs, dir)
}

// any reports whether one of several files is there.
func (p *planner) any(names ...string) bool {
	return slices.ContainsFunc(names, p.exists)
}

// commentOut puts "#" before the lines of a file that match.
func (p *planner) commentOut(name string, match func(line string) bool) bool {
	data, ok := p.pending(name)
	if !ok {
		return false
	}
	found := false
	now := eachLine(data, func(l string) string {
		if text := strings.TrimSpace(l); text == "" || text[0] == '#' || !match(text) {
			return l
		}
		found = true
		return "#" + l
	})
	p.amend(name, data, now)
	return found
}

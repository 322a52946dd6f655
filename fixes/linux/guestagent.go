package linux

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/ini"
	"hyper2kvm/fixes/linux/shellvars"
)

// guestAgent sees to it that the QEMU guest agent starts, and puts it in where
// a package of it was given. The channel that it speaks on is in the domain.
func guestAgent(opts Options) fix {
	return fix{
		id:  "linux/guest-agent",
		why: "Without the QEMU guest agent the host neither knows the guest's addresses nor freezes its file systems for a snapshot.",
		plan: func(p *planner) error {
			if p.any("usr/sbin/qemu-ga", "usr/bin/qemu-ga") {
				if len(opts.Agent) > 0 {
					p.note("the QEMU guest agent is installed: %s is not needed", path.Base(opts.Agent[0].Name))
				}
				enableAgent(p)
				agentRules(p)
			} else if len(opts.Agent) > 0 {
				stageAgent(p, opts.Agent)
			}
			return nil
		},
	}
}

const agentUnit = "qemu-guest-agent.service"

// enableAgent has init start the agent, unless somebody has decided otherwise.
func enableAgent(p *planner) {
	switch {
	case p.isUnit(agentUnit):
		enableUnit(p, agentUnit)
	case p.facts.Init == "openrc" && p.exists("etc/init.d/qemu-guest-agent"):
		if p.exists("etc/runlevels/default") && !p.exists("etc/runlevels/boot/qemu-guest-agent") {
			p.link("etc/runlevels/default/qemu-guest-agent", "/etc/init.d/qemu-guest-agent")
		}
	default:
		for _, script := range []string{"qemu-ga", "qemu-guest-agent"} {
			enableScript(p, script)
		}
	}
}

// link proposes a symbolic link, unless there is something under its name.
func (p *planner) link(name, to string) {
	if !p.exists(name) {
		p.changes = append(p.changes, fixes.Symlink{Name: name, To: to})
	}
}

// enableUnit does what `systemctl enable` does, where nothing starts the unit
// yet: some packages have udev start it when the channel appears.
func enableUnit(p *planner, unit string) {
	if target, err := p.fs.ReadLink(path.Join("etc/systemd/system", unit)); err == nil && target == "/dev/null" {
		p.note("%s is masked; left", unit)
		return
	}
	dir := unitDirs()[0]
	if !p.exists(path.Join(dir, unit)) {
		dir = unitDirs()[1]
	}
	data, ok := p.read(path.Join(dir, unit))
	if !ok || startedByUdev(p, unit) || startedByUnit(p, unit) {
		return
	}
	for _, target := range ini.Parse(data).Values("Install", "WantedBy") {
		if !strings.Contains(target, "/") {
			p.link(path.Join("etc/systemd/system", target+".wants", unit), "/"+path.Join(dir, unit))
		}
	}
}

func startedByUdev(p *planner, unit string) bool {
	for _, dir := range []string{"usr/lib/udev/rules.d", "lib/udev/rules.d", "etc/udev/rules.d"} {
		for _, name := range p.list(dir, ".rules") {
			if !strings.Contains(name, "guest") && !strings.Contains(name, "qemu") {
				continue
			}
			if data, ok := p.read(name); ok && strings.Contains(string(data), unit) {
				return true
			}
		}
	}
	return false
}

func startedByUnit(p *planner, unit string) bool {
	for _, root := range append(unitDirs(), "etc/systemd/system") {
		for _, dir := range p.list(root, ".wants") {
			if p.exists(path.Join(dir, unit)) {
				return true
			}
		}
	}
	return false
}

// chkconfig is the comment by which a script names its runlevels and its places
// in their order (chkconfig(8)); "-" means no runlevel by default.
var chkconfig = regexp.MustCompile(`(?m)^#[ \t]*chkconfig:[ \t]*([0-9-]+)[ \t]+([0-9]{1,2})[ \t]+([0-9]{1,2})`)

// enableScript has rc start a script, in the place that it names or the last.
func enableScript(p *planner, script string) {
	data, ok := p.read(path.Join("etc/init.d", script))
	if !ok || p.facts.Init == "systemd" || p.facts.Init == "openrc" {
		return
	}
	order := "99"
	if m := chkconfig.FindSubmatch(data); m != nil {
		order = fmt.Sprintf("%02s", m[2])
	}
	for _, dir := range startDirs(p) {
		if slices.ContainsFunc(p.list(dir, script), func(name string) bool {
			m := rcLink.FindStringSubmatch(path.Base(name))
			return m != nil && m[1] == "S" && m[3] == script
		}) {
			continue
		}
		for _, name := range p.list(dir, script) {
			if m := rcLink.FindStringSubmatch(path.Base(name)); m != nil && m[3] == script {
				p.changes = append(p.changes, fixes.Remove{Name: name})
			}
		}
		p.link(path.Join(dir, "S"+order+script), "../init.d/"+script)
	}
}

// startDirs are the folders of the runlevels in which servers run, one name of
// each.
func startDirs(p *planner) []string {
	var out []string
	for _, pattern := range []string{"etc/rc.d/rc%d.d", "etc/init.d/rc%d.d", "etc/rc%d.d"} {
		for _, level := range []int{2, 3, 4, 5} {
			if real, err := p.realDir(fmt.Sprintf(pattern, level)); err == nil && !slices.Contains(out, real) {
				out = append(out, real)
			}
		}
	}
	return out
}

// agentRules tells of calls that the agent's configuration forbids to the host.
func agentRules(p *planner) {
	for _, name := range []string{"etc/sysconfig/qemu-ga", "etc/default/qemu-guest-agent"} {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		for _, v := range shellvars.Parse(data).Vars() {
			switch v.Name {
			case "BLACKLIST_RPC", "BLOCK_RPCS", "FILTER_RPC_ARGS":
				if v.Value != "" {
					p.note("%s: %s keeps the host from some calls (files, programs, passwords); left as its owner has set it", name, v.Name)
				}
			}
		}
	}
	if p.any("usr/bin/spice-vdagentd", "usr/sbin/spice-vdagentd") {
		p.note("spice-vdagent is installed: it needs a SPICE screen, which the domain does not have; it does nothing without")
	}
}

// Where a package waits for the first start, and what installs it.
const (
	stageDir    = "usr/local/lib/hyper2kvm"
	stageScript = stageDir + "/install-agent"
	stageName   = "hyper2kvm-agent"
)

// stageAgent puts packages into the guest with what installs them at the first
// start on KVM and then removes itself.
func stageAgent(p *planner, packages []Package) {
	var files []string
	kind := path.Ext(packages[0].Name)
	for _, pkg := range packages {
		if path.Ext(pkg.Name) != kind {
			p.note("packages of two kinds were given for the guest agent; none was put in")
			return
		}
		files = append(files, path.Join(stageDir, stagedName(pkg.Name)))
	}
	base := path.Base(packages[0].Name)
	install, ok := installer(p, kind)
	if !ok {
		p.note("%s is no package for this guest; it was not put in", base)
		return
	}
	start := p.stageStart()
	if start == nil {
		p.note("%s was not put in: how this guest starts programs is not known", base)
		return
	}
	for i, pkg := range packages {
		p.createFile(files[i], pkg.Content, 0o644)
	}
	p.createFile(stageScript, []byte(stageText(files, install, start)), 0o755)
	p.note("%s is installed when the guest starts on KVM for the first time; /var/log/%s.log says how it went", base, stageName)
}

// createFile is create with a mode.
func (p *planner) createFile(name string, content []byte, mode fs.FileMode) {
	old, ok := p.read(name)
	if !ok || string(old) != string(content) {
		p.changes = append(p.changes, fixes.WriteFile{Name: name, Content: content, Attr: &guest.Attr{Mode: mode}})
	}
}

// stagedName is a package's name with nothing in it that a shell or apt, which
// takes it for part of a URI, would read otherwise.
func stagedName(name string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && isWord(byte(r)) || strings.ContainsRune("._+-", r) {
			return r
		}
		return '_'
	}, path.Base(name))
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// installer gives the shell function that installs the packages it is given. It
// tries first what needs no network; and dpkg, which leaves a package behind that
// lacks something it depends on, last.
func installer(p *planner, kind string) (function string, ok bool) {
	switch kind {
	case ".deb":
		return `install() {
	export DEBIAN_FRONTEND=noninteractive
	keep='-y -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=60'
	apt-get $keep --no-download --no-install-recommends install "$@" && return
	apt-get update && apt-get $keep --no-install-recommends install "$@" && return
	dpkg -i "$@" && return
	dpkg --purge qemu-guest-agent
	return 1
}
`, p.exists("usr/bin/dpkg")
	case ".rpm":
		return `install() {
	rpm -U --replacepkgs "$@" && return
	dnf -y install "$@" || yum -y install "$@" || zypper --non-interactive install --allow-unsigned-rpm "$@"
}
`, p.any("usr/bin/rpm", "bin/rpm")
	case ".apk":
		return `install() {
	apk add --no-network --allow-untrusted "$@" || apk add --allow-untrusted "$@"
}
`, p.any("sbin/apk", "usr/sbin/apk", "usr/bin/apk")
	}
	return "", false
}

// stageStart proposes what starts the script and returns its files, nil where
// the init is not known.
func (p *planner) stageStart() []string {
	switch p.facts.Init {
	case "systemd":
		unit := "etc/systemd/system/" + stageName + ".service"
		wants := "etc/systemd/system/multi-user.target.wants/" + stageName + ".service"
		p.createFile(unit, []byte(stageUnit), 0o644)
		p.link(wants, "/"+unit)
		return []string{wants, unit}
	case "openrc":
		name := "etc/local.d/" + stageName + ".start"
		p.createFile(name, []byte("#!/bin/sh\nexec /"+stageScript+"\n"), 0o755)
		if p.exists("etc/init.d/local") {
			p.link("etc/runlevels/default/local", "/etc/init.d/local")
		}
		return []string{name}
	case "sysv", "upstart":
		name := "etc/init.d/" + stageName
		p.createFile(name, []byte(stageInit), 0o755)
		files := []string{name}
		for _, dir := range startDirs(p) {
			link := path.Join(dir, "S99"+stageName)
			p.link(link, "/"+name)
			files = append(files, link)
		}
		return files
	}
	return nil
}

const stageUnit = `[Unit]
Description=Install the QEMU guest agent
ConditionVirtualization=|kvm
ConditionVirtualization=|qemu
After=local-fs.target network.target network-online.target

[Service]
Type=oneshot
TimeoutStartSec=300
ExecStart=/` + stageScript + `

[Install]
WantedBy=multi-user.target
`

const stageInit = `#!/bin/sh
### BEGIN INIT INFO
# Provides:          ` + stageName + `
# Required-Start:    $local_fs $network
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: Install the QEMU guest agent
### END INIT INFO
# chkconfig: 2345 99 01
[ "$1" = start ] && exec /` + stageScript + `
exit 0
`

// stageText is the script. It does nothing before the machine has the agent's
// channel, so that the old hypervisor never installs it; the driver of a virtio
// machine takes a moment to name it. What starts the script goes first, so that a
// package that does not install is tried once.
func stageText(files []string, install string, start []string) string {
	packages := "/" + strings.Join(files, " /")
	return fmt.Sprintf(`#!/bin/sh
# Installs the QEMU guest agent when this machine has started on KVM.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
%s
[ -n "$(ls /sys/bus/virtio/devices 2>/dev/null)" ] || exit 0
modprobe virtio_console 2>/dev/null
left=10
until grep -qs org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name; do
	[ $left -gt 0 ] || exit 0
	left=$((left - 1))
	sleep 1
done
exec >>/var/log/%s.log 2>&1
date
rm -f /%s
if install %s; then
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		systemctl enable %s
		systemctl restart --no-block %s
	elif [ -d /etc/runlevels ]; then
		rc-update add qemu-guest-agent default
		rc-service qemu-guest-agent start
	else
		for script in qemu-ga qemu-guest-agent; do
			[ -x /etc/init.d/$script ] || continue
			chkconfig $script on 2>/dev/null || update-rc.d $script defaults
			/etc/init.d/$script start
		done
	fi
	rm -f %s
	echo installed
else
	echo "the package was not installed; it stays in /%s"
fi
rm -f /%s
rmdir /%s 2>/dev/null
exit 0
`, strings.TrimSuffix(install, "\n"), stageName, strings.Join(start, " /"), packages, agentUnit, agentUnit, packages, stageDir, stageScript, stageDir)
}

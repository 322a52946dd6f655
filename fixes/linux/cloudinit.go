package linux

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// cloudInit keeps cloud-init from configuring the network anew: a server that
// is moved keeps what it has.
func cloudInit() fix {
	return fix{
		id:      "linux/cloud-init",
		why:     "cloud-init sees a new platform and replaces the guest's network configuration.",
		applies: func(f *guest.Facts) bool { return len(f.Network) > 0 },
		plan: func(p *planner) error {
			planCloudInit(p)
			return nil
		},
	}
}

var (
	networkOff  = regexp.MustCompile(`(?m)^network:[ \t]*(?:\{[ \t]*|\n[ \t]+)config:[ \t]*disabled`)
	datasources = regexp.MustCompile(`(?m)^datasource_list:[ \t]*\[([^\]]*)\]`)
)

func planCloudInit(p *planner) {
	const dir = "etc/cloud/cloud.cfg.d"
	if !p.exists("usr/bin/cloud-init") || p.exists("etc/cloud/cloud-init.disabled") {
		return
	}
	list, off := "", false
	for _, name := range append([]string{"etc/cloud/cloud.cfg"}, p.list(dir, ".cfg")...) {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		off = off || networkOff.Match(data)
		if m := datasources.FindSubmatch(data); m != nil {
			list = string(m[1])
		}
	}
	if !off {
		p.create(path.Join(dir, "99-hyper2kvm-network.cfg"), "# The network was configured before the move to KVM and is kept.\nnetwork: {config: disabled}\n")
	}
	sources := strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", '\"\t\n", r) })
	if len(sources) > 0 && !slices.Contains(sources, "NoCloud") && !slices.Contains(sources, "None") {
		p.note("cloud-init looks for %s only, and may wait minutes for it at boot", strings.Join(sources, ", "))
	}
}

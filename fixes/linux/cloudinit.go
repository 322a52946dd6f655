package linux

import (
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/cmdline"
)

// cloudInit keeps cloud-init from configuring the guest anew: a server that is
// moved stays the instance that it was, with its network, its name and its SSH
// host keys, whatever the new platform says of itself.
func cloudInit() fix {
	return fix{
		id:  "linux/cloud-init",
		why: "cloud-init sees a new platform: it waits minutes for the old one's metadata, or takes the guest for a new instance and replaces its network, host keys and name.",
		plan: func(p *planner) error {
			planCloudInit(p)
			return nil
		},
	}
}

const (
	cloudDir = "etc/cloud/cloud.cfg.d"
	// Of several files the last one counts, by name.
	cloudOurs = cloudDir + "/zz-hyper2kvm.cfg"
	// cloudCache holds the instance that cloud-init last was, and cloudMarker
	// tells it, and ds-identify before it, to go on with that (cloud-init:
	// tools/ds-identify, manual_clean_and_existing; cmd/main.py, main_init).
	cloudCache  = "var/lib/cloud/instance/obj.pkl"
	cloudMarker = "var/lib/cloud/instance/manual-clean"
)

// cloudConfig is what of cloud-init's configuration counts here.
type cloudConfig struct {
	networkOff bool
	manual     bool
	sources    []string
	sourcesIn  string
}

// readCloud merges cloud-init's files, of which the last one counts, ours left
// out.
func readCloud(p *planner) cloudConfig {
	var c cloudConfig
	for _, name := range append([]string{"etc/cloud/cloud.cfg"}, p.list(cloudDir, ".cfg")...) {
		if name == cloudOurs {
			continue
		}
		data, ok := p.read(name)
		if !ok {
			continue
		}
		var doc struct {
			Network     map[string]any `yaml:"network"`
			Datasources []any          `yaml:"datasource_list"`
			Manual      *bool          `yaml:"manual_cache_clean"`
		}
		if err := yaml.Unmarshal(data, &doc); err != nil {
			p.note("%s: not read: %v", name, err)
			continue
		}
		if v, ok := doc.Network["config"]; ok {
			c.networkOff = v == "disabled"
		}
		if doc.Manual != nil {
			c.manual = *doc.Manual
		}
		if doc.Datasources != nil {
			c.sources, c.sourcesIn = nil, name
			for _, v := range doc.Datasources {
				c.sources = append(c.sources, sourceName(v))
			}
		}
	}
	return c
}

// sourceName gives a data source as it is written: YAML reads None as a text,
// null as nothing.
func sourceName(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return "None"
}

func planCloudInit(p *planner) {
	if !cloudInstalled(p) {
		return
	}
	if off := cloudOff(p); off != "" {
		p.note("cloud-init is switched off by %s; nothing to do", off)
		return
	}
	c := readCloud(p)
	var text strings.Builder
	text.WriteString("# The server was configured before the move to KVM and is kept as it was.\n")
	start := text.Len()
	if !c.networkOff && len(p.facts.Network) > 0 {
		text.WriteString("network: {config: disabled}\n")
	}
	cached := p.exists(cloudCache)
	if cached && !c.manual {
		text.WriteString("manual_cache_clean: true\n")
	}
	if pinned(c.sources) {
		text.WriteString("datasource_list: [ NoCloud, ConfigDrive, None ]\n")
		p.note("cloud-init looked for %s only (%s), and would wait for it at boot; it looks at local sources now", strings.Join(slices.DeleteFunc(c.sources, func(s string) bool { return s == "None" }), ", "), c.sourcesIn)
	}
	if cached {
		keepInstance(p)
	} else {
		p.note("cloud-init has no instance to go on with: on KVM it runs for a new one if the platform gives it data, and is off if not")
	}
	if text.Len() > start {
		p.createCloud(text.String())
	}
	cloudPins(p, cached)
}

// createCloud writes our file. It has to be read last, as the last value of a
// key counts.
func (p *planner) createCloud(text string) {
	for _, name := range p.list(cloudDir, ".cfg") {
		data, ok := p.read(name)
		if !ok || name <= cloudOurs {
			continue
		}
		for _, key := range []string{"datasource_list:", "manual_cache_clean:"} {
			if strings.Contains(text, key) && strings.Contains(uncommented(data), key) {
				p.note("%s is read after %s, and its %s counts", name, path.Base(cloudOurs), strings.TrimSuffix(key, ":"))
			}
		}
	}
	p.create(cloudOurs, text)
}

func cloudInstalled(p *planner) bool {
	return p.exists("usr/bin/cloud-init") || p.exists("usr/local/bin/cloud-init") || p.exists("bin/cloud-init") || p.exists("etc/cloud/cloud.cfg")
}

// cloudOff says what keeps cloud-init from running at all, "" where nothing
// does.
func cloudOff(p *planner) string {
	if name := "etc/cloud/cloud-init.disabled"; p.exists(name) {
		return name
	}
	name := "etc/systemd/system/cloud-init.service"
	if target, err := p.fs.ReadLink(name); err == nil && target == "/dev/null" {
		return name
	}
	off := ""
	look := &planner{fs: p.fs, facts: p.facts}
	look.cmdlines(func(pl place, a *cmdline.Args) {
		if pl.entry && slices.Contains(a.Values("cloud-init"), "disabled") {
			off = "the kernel argument cloud-init=disabled"
		}
	})
	return off
}

// pinned reports whether the data sources are chosen for one platform.
func pinned(sources []string) bool {
	return slices.ContainsFunc(sources, func(s string) bool { return s != "None" }) && !slices.Contains(sources, "NoCloud")
}

// keepInstance lets cloud-init, and ds-identify before it, go on with the
// instance that it was at the first boot already.
func keepInstance(p *planner) {
	name, err := guest.Resolve(p.fs, cloudMarker)
	if err != nil {
		p.note("%s: left as it is: %v", cloudMarker, err)
		return
	}
	if !p.exists(name) {
		p.create(name, "")
	}
	p.note("cloud-init goes on as the instance that it was, whatever the platform says; `cloud-init clean` makes it a new one")
}

// cloudPins tells what else ties cloud-init to a platform.
func cloudPins(p *planner, cached bool) {
	effect := "it waits for that source at boot"
	if cached {
		effect = "of no effect while the instance is kept"
	}
	if data, ok := p.read("etc/cloud/ds-identify.cfg"); ok {
		for l := range strings.Lines(uncommented(data)) {
			if key, value, ok := strings.Cut(strings.TrimSpace(l), ":"); ok && key == "datasource" {
				p.note("etc/cloud/ds-identify.cfg: names the data source %s; %s", strings.TrimSpace(value), effect)
			}
		}
	}
	look := &planner{fs: p.fs, facts: p.facts}
	look.cmdlines(func(pl place, a *cmdline.Args) {
		for _, key := range []string{"ci.ds", "ci.datasource", "ds"} {
			for _, v := range a.Values(key) {
				p.note("%s: the kernel argument %s=%s names cloud-init's data source; %s", pl.file, key, v, effect)
			}
		}
	})
}

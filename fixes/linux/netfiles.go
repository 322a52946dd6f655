package linux

import (
	"bytes"
	"path"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/linux/layers"
)

// networkd lists systemd-networkd's files that end in one of suffixes, each
// with those that add to it.
func (p *planner) networkd(suffixes ...string) []string {
	var out []string
	for _, suffix := range suffixes {
		files := layers.List(p.fs, suffix, layers.Networkd()...)
		var names []string
		for _, f := range files {
			names = append(names, path.Base(f))
		}
		out = append(append(out, files...), layers.DropIns(p.fs, names, layers.Networkd()...)...)
	}
	return out
}

// keyfiles lists NetworkManager's profiles.
func (p *planner) keyfiles() []string { return layers.List(p.fs, "", layers.Keyfiles()...) }

// managerFiles lists NetworkManager's own configuration, with the cards that it
// made no connection for.
func (p *planner) managerFiles() []string {
	out := append([]string{"etc/NetworkManager/NetworkManager.conf"}, layers.List(p.fs, ".conf", layers.ManagerConf()...)...)
	return append(out, "var/lib/NetworkManager/no-auto-default.state")
}

// netplanFiles lists netplan's files in the order in which they are read.
func (p *planner) netplanFiles() []string { return layers.List(p.fs, ".yaml", layers.Netplan()...) }

// amendOwn is amend for a file that may be a package's: the next update would
// bring that back, so its changed copy goes to where the administrator's stand.
func (p *planner) amendOwn(name string, old, now []byte) {
	own := layers.Own(name, layers.Networkd(), layers.Keyfiles(), layers.ManagerConf(), layers.Netplan())
	if own == name {
		p.amend(name, old, now)
		return
	}
	if bytes.Equal(old, now) {
		return
	}
	attr, err := p.fs.Attr(name)
	if err != nil {
		p.note("%s: left as it is: %v", name, err)
		return
	}
	p.note("%s is a package's; its changed copy is %s, which goes before it", name, own)
	p.changes = append(p.changes, fixes.WriteFile{Name: own, Content: now, Attr: &attr})
}

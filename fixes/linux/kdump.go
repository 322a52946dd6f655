package linux

import (
	"path"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/linux/table"
)

// kdump lets the crash kernel find its disks: it has an image of its own, made
// for the machine that it was made on.
func kdump(opts Options) fix {
	return fix{
		id:  "linux/kdump",
		why: "The crash kernel's image holds the old machine's drivers only, so that no dump could be written on KVM.",
		plan: func(p *planner) error {
			d := opts.devices(p.facts)
			if data, ok := p.read("etc/kdump.conf"); ok {
				redHatKdump(p, d, data)
				return nil
			}
			debianKdump(p)
			suseKdump(p)
			return nil
		},
	}
}

const kdumpNote = "# hyper2kvm: this file is newer than the crash kernel's image, so that kdump makes that anew.\n"

// redHatKdump renames the target of dumps (kdump.conf(5)). The service makes an
// image that is older than its configuration anew when it starts; where no
// image is there it does so anyway.
func redHatKdump(p *planner, d devices, data []byte) {
	const name = "etc/kdump.conf"
	file := table.Parse(data)
	for _, r := range file.Rows() {
		kind := r.Field(0)
		switch kind {
		case "raw", "ext2", "ext3", "ext4", "xfs", "btrfs", "minix":
		default:
			continue
		}
		s, state := d.look(r.Field(1), kind)
		switch state {
		case missing:
			p.note("%s: %s is on no disk that was given; left", name, r.Field(1))
		case moves:
			to, ok := d.stable(s)
			if kind == "raw" { // the device itself, which takes no tag
				to, ok = d.path(s)
			}
			if ok {
				r.Set(1, to)
			}
		}
	}
	now := file.Bytes()
	made := append(p.list("boot", "kdump.img"), p.list("var/lib/kdump", "kdump.img")...)
	if len(made) > 0 && !strings.Contains(string(now), kdumpNote) {
		now = append(ended(now), kdumpNote...)
	}
	p.write(name, data, now)
}

// debianKdump removes the images that kdump-tools made: it makes what is
// missing when it starts (kdump-config(8)).
func debianKdump(p *planner) {
	if !p.exists("etc/default/kdump-tools") {
		return
	}
	for _, image := range p.list("var/lib/kdump", "") {
		if strings.HasPrefix(path.Base(image), "initrd") {
			p.changes = append(p.changes, fixes.Remove{Name: image})
		}
	}
}

// suseKdump has the image made anew, whose configuration is the same file for
// all targets.
func suseKdump(p *planner) {
	const name = "etc/sysconfig/kdump"
	data, ok := p.read(name)
	if !ok {
		return
	}
	made := false
	for _, image := range p.list("boot", "-kdump") {
		made = made || strings.HasPrefix(path.Base(image), "initrd-")
	}
	made = made || len(p.list("var/lib/kdump", "initrd")) > 0
	if made && !strings.Contains(string(data), kdumpNote) {
		p.write(name, data, append(ended(data), kdumpNote...))
	}
}

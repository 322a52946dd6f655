package initramfs

import (
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/shellvars"
)

const (
	mkinitfsConf     = "etc/mkinitfs/mkinitfs.conf"
	mkinitfsFeatures = "etc/mkinitfs/features.d"
)

// mkinitfsProgram is mkinitfs of Alpine. Its images hold what features list,
// whatever the machine has.
type mkinitfsProgram struct{}

func (mkinitfsProgram) command(_ *plan, c *checked) (fixes.Command, error) {
	args := []string{"mkinitfs", "-o", "/" + c.img.name, c.version}
	return fixes.Command{Command: guest.Command{Args: args}, Touches: []string{c.img.name}}, nil
}

func (mkinitfsProgram) config(p *plan) error {
	old, err := optional(p.g.FS, mkinitfsConf)
	if err != nil || !p.lacking {
		return err
	}
	f := shellvars.Parse(old)
	v := f.Last("features")
	if v == nil {
		p.note("%s sets no features; add to them: virtio scsi", mkinitfsConf)
		return nil
	}
	for _, feature := range []string{"virtio", "scsi"} {
		switch {
		case slices.Contains(strings.Fields(v.Value), feature):
		case !p.exists(mkinitfsFeatures+"/"+feature+".modules", "usr/share/mkinitfs/features.d/"+feature+".modules"):
			p.note("%s: there is no feature %s to add", mkinitfsConf, feature)
		default:
			v.Value = strings.TrimSpace(v.Value + " " + feature)
		}
	}
	p.write(mkinitfsConf, old, f.Bytes())
	return nil
}

package linux

import (
	"path"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
	"hyper2kvm/fixes/linux/cmdline"
	"hyper2kvm/fixes/linux/initramfs"
	"hyper2kvm/formats/pe"
)

// unifiedImages checks unified kernel images: their command line and their
// initramfs are parts of a program, mostly a signed one, so that they cannot be
// edited. What would have to change is said aloud, with how to make the image
// anew.
func unifiedImages(opts Options) fix {
	return fix{
		id:  "linux/unified-kernel",
		why: "A unified kernel image has its initramfs and its command line inside: one that was made for the old machine's disks must be made anew.",
		plan: func(p *planner) error {
			if p.facts.Firmware != "uefi" {
				return nil
			}
			for _, name := range inspect.UnifiedImages(p.fs, p.facts.Loader.ESP) {
				u := &unifiedImage{p: p, name: name}
				if err := u.check(opts); err != nil {
					p.note("%s: not looked at: %v", name, err)
				} else if u.kernelInside {
					u.say()
				}
			}
			return nil
		},
	}
}

// maxCommandLine is more than any kernel takes, in bytes.
const maxCommandLine = 64 << 10

type unifiedImage struct {
	p      *planner
	name   string
	wrongs []string // what would have to change
	signed bool
	// kernelInside tells it from other programs: systemd-boot, an add-on.
	kernelInside bool
}

func (u *unifiedImage) check(opts Options) error {
	return inspect.ReadPE(u.p.fs, u.name, func(img *pe.Image) error {
		if _, u.kernelInside = img.Section(".linux"); !u.kernelInside {
			return nil
		}
		u.signed = img.Signed
		text, err := img.Text(".cmdline", maxCommandLine)
		if err != nil {
			return err
		}
		u.commandLine(opts, text)
		return u.initramfs(img)
	})
}

// fit reports whether an image needs no change to boot on KVM.
func (u *unifiedImage) fit(opts Options) bool {
	return u.check(opts) == nil && u.kernelInside && len(u.wrongs) == 0
}

// commandLine looks for what the edits of command lines elsewhere would change.
func (u *unifiedImage) commandLine(opts Options, text string) {
	line := strings.Join(strings.Fields(text), " ")
	args := cmdline.Parse(line)
	if args.Open() {
		return
	}
	// The edits' own notes are about files that they leave; here all is left.
	q := &planner{fs: u.p.fs, facts: u.p.facts}
	d := opts.devices(u.p.facts)
	pl := place{file: u.name, entry: true}
	rootArgs(q, d, pl, args)
	resumeArgs(q, d, pl, args)
	if now := args.String(); now != line {
		u.wrongs = append(u.wrongs, "its command line is \""+line+"\" and should be \""+now+"\"")
	}
	for _, arg := range args.All() {
		key, value, _ := cmdline.Split(arg)
		if _, state := d.look(value, ""); key == "root" && state == missing {
			u.wrongs = append(u.wrongs, arg+" is on no disk that was given")
		}
	}
}

// initramfs compares the initramfs inside with what the kernel needs.
func (u *unifiedImage) initramfs(img *pe.Image) error {
	s, ok := img.Section(".initrd")
	if !ok {
		return nil
	}
	k := u.kernel(img)
	if k == nil {
		u.p.note("%s: which kernel it holds cannot be told, so its initramfs was not compared with the kernel's drivers", u.name)
		return nil
	}
	lacks, err := initramfs.Lacks(&guest.Guest{FS: u.p.fs, Facts: u.p.facts}, *k, s)
	if err != nil {
		return err
	}
	if len(lacks) > 0 {
		u.wrongs = append(u.wrongs, "its initramfs lacks "+strings.Join(lacks, " "))
	}
	return nil
}

// kernel finds the modules of the kernel inside: by the version that the image
// names, or in the kernel's own name for it.
func (u *unifiedImage) kernel(img *pe.Image) *guest.Kernel {
	version, err := img.Text(".uname", maxCommandLine)
	if err != nil {
		return nil
	}
	best := ""
	for _, dir := range u.p.list("lib/modules", "") {
		v := path.Base(dir)
		if v == strings.TrimSpace(version) {
			best = v
			break
		}
		if strings.Contains(path.Base(u.name), v) && len(v) > len(best) {
			best = v
		}
	}
	if best == "" {
		return nil
	}
	modules, err := guest.Resolve(u.p.fs, "lib/modules/"+best)
	if err != nil {
		return nil
	}
	return &guest.Kernel{Version: best, Image: u.name, Initramfs: u.name, Modules: modules}
}

func (u *unifiedImage) say() {
	if len(u.wrongs) == 0 {
		u.p.note("%s: its command line and its initramfs are fit for KVM", u.name)
		return
	}
	kind := "it is not edited"
	if u.signed {
		kind = "it is signed and cannot be edited"
	}
	u.p.note("%s: %s; %s: make it anew in the guest before the move, with %s", u.name, strings.Join(u.wrongs, "; "), kind, u.tool())
}

// tool is how the guest makes such images.
func (u *unifiedImage) tool() string {
	switch u.p.facts.Initramfs {
	case "mkinitcpio":
		return "MODULES=(virtio_pci virtio_blk virtio_scsi) in etc/mkinitcpio.conf, the command line in etc/kernel/cmdline, and mkinitcpio -P"
	case "dracut":
		return "the command line in etc/kernel/cmdline, and dracut --uefi --force --add-drivers 'virtio_pci virtio_blk virtio_scsi'"
	}
	return "the drivers virtio_pci, virtio_blk and virtio_scsi in the initramfs, the command line in etc/kernel/cmdline, and kernel-install add (or ukify build)"
}

package distros

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/linux/initramfs"
	"hyper2kvm/formats/cpio"
)

// checker looks at a guest whose fixes are applied as its first boot on KVM
// would, and lists what is still in the way. None of it asks how a fix works.
type checker struct {
	tree  *guesttest.FS
	facts *guest.Facts // inspected after the fixes
	out   []string
}

// leftovers lists, a line each, what the first boot would trip over.
func leftovers(t *testing.T, before *guesttest.FS, g *guest.Guest) []string {
	c := &checker{tree: g.FS.(*guesttest.FS), facts: g.Facts}
	c.kernels(t.Context(), g)
	c.tables()
	c.commandLines()
	c.entries()
	c.loader()
	c.names()
	c.drivers()
	c.labels(t, before)
	c.services(before)
	slices.Sort(c.out)
	return slices.Compact(c.out)
}

func (c *checker) say(format string, args ...any) {
	c.out = append(c.out, fmt.Sprintf(format, args...)+"\n")
}

func (c *checker) read(name string) string {
	data, err := fs.ReadFile(c.tree, name)
	if err != nil {
		return ""
	}
	return string(data)
}

func (c *checker) list(dir string) []string {
	entries, err := c.tree.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, path.Join(dir, e.Name()))
	}
	return out
}

func (c *checker) exists(name string) bool {
	_, err := c.tree.Stat(name)
	return err == nil
}

// kernels holds that the kernel that is started has drivers for the disk, and
// every initramfs can load them.
func (c *checker) kernels(ctx context.Context, g *guest.Guest) {
	findings, err := initramfs.Verify(ctx, g)
	if err != nil {
		c.say("initramfs: %v", err)
	}
	for _, f := range findings {
		c.say("initramfs: %s", f)
	}
	if len(c.facts.Kernels) == 0 {
		c.say("kernel: none was found, so that no initramfs was looked at")
	}
	for _, k := range c.facts.Kernels {
		modules := c.read(k.Modules+"/modules.dep") + c.read(k.Modules+"/modules.builtin")
		if k.Default && !strings.Contains(modules, "virtio_blk.ko") && !strings.Contains(modules, "virtio_scsi.ko") {
			c.say("kernel: %s is the default and has no driver for a virtio disk", k.Version)
		}
		c.image(k.Initramfs)
		unified := strings.EqualFold(path.Ext(k.Image), ".efi") // brings its own
		if k.Initramfs == "" && !unified && k.Default && !strings.Contains(c.read(k.Modules+"/modules.builtin"), "virtio_blk.ko") {
			c.say("kernel: %s is the default, has no initramfs and virtio_blk is not built in", k.Version)
		}
	}
	if c.exists("etc/lvm/devices/system.devices") {
		c.say("lvm: etc/lvm/devices/system.devices lists the old machine's disks")
	}
}

// devicePath finds devices in an initramfs, where words stand in many syntaxes.
var devicePath = regexp.MustCompile(`/dev/(?:disk/by-(?:id|path)/)?[A-Za-z0-9._:-]+|\bUUID=[0-9A-Fa-f]{8}-[0-9A-Fa-f-]{27}`)

// onlySD matches a filter of LVM that lets SCSI disks through and no others.
var onlySD = regexp.MustCompile(`(?m)^\s*(?:global_)?filter = \[ "a\|\^?/dev/sd[^"]*", "r\|\.\*\|" \]`)

// address is that of a network card.
var address = regexp.MustCompile(`\b[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}\b`)

// image looks for devices that an initramfs waits for.
func (c *checker) image(name string) {
	file, err := c.tree.Open(name)
	if name == "" || err != nil {
		return
	}
	defer file.Close()
	r := cpio.NewReader(file, cpio.Limits{})
	defer r.Close()
	members := map[string]string{}
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		data, err := r.ReadAll(1 << 20)
		if err != nil {
			break
		}
		delete(members, h.Name)
		if h.IsFile() && !strings.Contains(h.Name, "lib/modules/") && !strings.HasPrefix(h.Name, "kernel/") {
			members[h.Name] = string(data)
		}
	}
	for member, text := range members {
		if strings.HasSuffix(member, "lvm/lvm.conf") && c.facts.TargetBus == "virtio" && onlySD.MatchString(text) {
			c.say("initramfs: %s of %s lets LVM see disks called sd alone", member, name)
		}
		for _, mac := range address.FindAllString(text, -1) {
			if !slices.ContainsFunc(c.facts.NICs, func(n guest.NIC) bool { return strings.EqualFold(n.MAC, mac) }) {
				c.say("initramfs: %s of %s waits for a card %s that is not there", member, name, mac)
			}
		}
		for _, dev := range devicePath.FindAllString(text, -1) {
			if _, known := c.facts.Resolve(dev); guest.Unstable(dev) || strings.HasPrefix(dev, "UUID=") && !known {
				c.say("initramfs: %s of %s names %s", member, name, dev)
			}
		}
	}
}

// spec judges a device that a boot-critical file names; may says that the boot
// goes on without it.
func (c *checker) spec(file, spec, fstype string, may bool) {
	found, ok := c.facts.ResolveAs(spec, fstype)
	tag, _, tagged := strings.Cut(guest.Unquote(spec), "=")
	tagged = tagged && slices.Contains([]string{"UUID", "LABEL", "PARTUUID", "PARTLABEL"}, tag)
	switch {
	case ok && guest.Unstable(spec) && found.Type != "crypto_LUKS":
		c.say("device: %s names %s, which has another name on KVM", file, spec)
	case !ok && !may && (tagged || guest.Unstable(spec)):
		c.say("device: %s needs %s, which is on no disk", file, spec)
	}
}

// tables looks at fstab(5) and crypttab(5).
func (c *checker) tables() {
	for _, e := range c.facts.Fstab {
		_, nofail := e.Option("nofail")
		_, noauto := e.Option("noauto")
		if !nofail && !noauto && slices.Contains([]string{"vboxsf", "prl_fs", "fuse.vmhgfs-fuse", "vmhgfs", "drvfs"}, e.Type) {
			c.say("device: etc/fstab mounts %s (%s), which a host gives that is no more", e.Point, e.Type)
		}
		// Before util-linux knew "x-" as a prefix to keep to itself, mount(8) gave
		// the option to the kernel, which refuses the file system for it.
		if c.facts.Init != "systemd" && slices.ContainsFunc(e.Options, func(o string) bool { return strings.HasPrefix(o, "x-systemd.") }) {
			c.say("device: etc/fstab has an option of systemd for %s, and init is %s", e.Point, c.facts.Init)
		}
		optical := e.Type == "iso9660" || e.Type == "udf" || strings.Contains(e.Type, "udf,iso9660")
		c.spec("etc/fstab", e.Spec, e.Type, nofail || noauto || optical)
	}
	for l := range strings.Lines(c.read("etc/crypttab")) {
		if w := strings.Fields(l); len(w) > 1 && w[0][0] != '#' {
			opts := strings.Join(w[2:], " ")
			c.spec("etc/crypttab", w[1], "", strings.Contains(opts, "nofail") || strings.Contains(opts, "noauto"))
		}
	}
}

var argument = regexp.MustCompile(`(?:^|[\s"'])((?:root|resume|rootdev|boot|real_root|cryptdevice|rd\.luks\.uuid|console)=[^\s"']+)`)

// commandLines looks at every kernel command line, and settings that such lines
// are made of.
func (c *checker) commandLines() {
	files := append(slices.Clone(c.facts.Loader.Configs), "etc/sysconfig/bootloader", "etc/initramfs-tools/conf.d/resume", "etc/zipl.conf", "etc/lilo.conf")
	for _, name := range append(files, c.list("etc/initramfs-tools/conf.d")...) {
		for l := range strings.Lines(c.read(name)) {
			if s := strings.TrimSpace(l); strings.HasPrefix(s, "#") && !strings.HasPrefix(s, "# kopt=") {
				continue
			}
			for _, m := range argument.FindAllStringSubmatch(l, -1) {
				c.argument(name, m[1])
			}
			if value, ok := strings.CutPrefix(strings.TrimSpace(l), "RESUME="); ok && strings.Trim(value, `"'`) != "none" {
				c.spec(name, value, "swap", false)
			}
		}
	}
}

func (c *checker) argument(file, arg string) {
	key, value, _ := strings.Cut(arg, "=")
	switch {
	case key == "console":
		if strings.HasPrefix(value, "hvc") || strings.HasPrefix(value, "xvc") {
			c.say("console: %s has console=%s, a console of Xen", file, value)
		}
	case key == "rd.luks.uuid" || strings.HasPrefix(value, "$"):
	case key == "cryptdevice":
		value, _, _ = strings.Cut(value, ":")
		if s, ok := c.facts.Resolve(value); !ok || guest.Unstable(value) {
			c.say("device: %s opens %s: %+v", file, value, s)
		}
	default:
		c.spec(file, value, map[string]string{"resume": "swap"}[key], false)
	}
}

var entryFile = regexp.MustCompile(`^[ \t]*(?i:linux|linux16|linuxefi|kernel|initrd|initrd16|initrdefi|module|initramfs)[ \t]+(?:\(hd[0-9,]+\))?(?:\$[a-z_]+)?(/?[^\s,$]+)`)

// entries holds that the files of every boot entry are there.
func (c *checker) entries() {
	for _, name := range c.facts.Loader.Configs {
		if strings.HasPrefix(name, "etc/") {
			continue
		}
		for l := range strings.Lines(c.read(name)) {
			m := entryFile.FindStringSubmatch(l)
			if m == nil || strings.HasSuffix(m[1], ".c32") || strings.Contains(m[1], "@") {
				continue
			}
			file := strings.Trim(m[1], "/")
			if !c.exists(file) && !c.exists(path.Join("boot", file)) && !c.onESP(file) && !c.exists("boot/"+path.Base(file)) {
				c.say("entry: %s starts %s, which is not there", name, m[1])
			}
		}
	}
}

// onESP looks for a file on the EFI system partition, where case does not count.
func (c *checker) onESP(file string) bool {
	at := c.facts.Loader.ESP
	for elem := range strings.SplitSeq(file, "/") {
		i := slices.IndexFunc(c.list(at), func(n string) bool { return strings.EqualFold(path.Base(n), elem) })
		if at == "" || i < 0 {
			return false
		}
		at = c.list(at)[i]
	}
	return true
}

// loader holds that the firmware finds something to start, and that GRUB can
// write to its environment.
func (c *checker) loader() {
	if c.facts.Firmware == "uefi" && c.facts.Loader.ESP != "" {
		found := slices.ContainsFunc(c.facts.Loader.Loaders, func(l string) bool {
			return strings.HasPrefix(strings.ToLower(l), "efi/boot/boot")
		})
		if !found {
			c.say("loader: no EFI/BOOT/BOOT*.EFI on the EFI system partition")
		}
		// GRUB 0.97 for EFI reads the file beside it that has its own name.
		if c.facts.Loader.Kind == "grub-legacy" && found && !c.exists(c.facts.Loader.ESP+"/EFI/BOOT/BOOTX64.conf") {
			c.say("loader: EFI/BOOT/BOOTX64.EFI is GRUB 0.97 and has no BOOTX64.conf beside it")
		}
	}
	for _, name := range c.facts.Loader.Configs {
		if info, err := c.tree.Stat(name); path.Base(name) == "grubenv" && (err != nil || info.Size() != 1024) {
			c.say("loader: %s is not 1024 bytes long", name)
		}
	}
	for _, name := range []string{"etc/inittab", "etc/init/hvc0.conf", "etc/init/xvc0.conf"} {
		if regexp.MustCompile(`(?m)^[^#\n]*\b[hx]vc0`).MatchString(c.read(name)) {
			c.say("console: %s has a login on a console of Xen", name)
		}
	}
}

var (
	ruleMAC  = regexp.MustCompile(`ATTRS?\{address\}=="([^"]+)"`)
	ruleName = regexp.MustCompile(`NAME:?="([^"$%]+)"`)
	linkMAC  = regexp.MustCompile(`(?m)^(?:Permanent)?MACAddress=(\S+)`)
	linkName = regexp.MustCompile(`(?m)^Name=(\S+)`)
	pinned   = regexp.MustCompile(`(?m)^(?:HWADDR=|mac-address=|\s*macaddress: *)["']?([0-9A-Fa-f:]{17})`)
)

// names holds that each card whose name is known gets that name, one name only,
// and that no configuration waits for a card that is not there.
func (c *checker) names() {
	given := map[string][]string{} // names by address
	add := func(mac, name string) {
		if mac = strings.ToLower(mac); !slices.Contains(given[mac], name) {
			given[mac] = append(given[mac], name)
		}
	}
	for _, file := range c.list("etc/udev/rules.d") {
		for l := range strings.Lines(c.read(file)) {
			mac, name := ruleMAC.FindStringSubmatch(l), ruleName.FindStringSubmatch(l)
			if mac != nil && name != nil && l[0] != '#' && strings.Contains(l, "net") {
				add(mac[1], name[1])
			}
		}
	}
	for _, file := range c.list("etc/systemd/network") {
		text := c.read(file)
		mac, name := linkMAC.FindStringSubmatch(text), linkName.FindStringSubmatch(text)
		if path.Ext(file) == ".link" && mac != nil && name != nil {
			add(mac[1], name[1])
		}
	}
	for _, nic := range c.facts.NICs {
		names := given[nic.MAC]
		switch {
		case len(names) > 1:
			c.say("network: rules call %s both %s", nic.MAC, strings.Join(names, " and "))
		case len(names) == 1 && nic.Name != "" && names[0] != nic.Name:
			c.say("network: a rule calls %s %s, the configuration %s", nic.MAC, names[0], nic.Name)
		case len(names) == 0 && nic.Name != "" && nic.MAC != "" && !strings.HasPrefix(nic.Name, "eth"):
			c.say("network: no rule gives %s its name %s", nic.MAC, nic.Name)
		}
	}
	for _, dir := range []string{"etc/sysconfig/network-scripts", "etc/sysconfig/network", "etc/NetworkManager/system-connections", "etc/netplan"} {
		for _, file := range c.list(dir) {
			for _, m := range pinned.FindAllStringSubmatch(c.read(file), -1) {
				if !slices.ContainsFunc(c.facts.NICs, func(n guest.NIC) bool { return strings.EqualFold(n.MAC, m[1]) }) {
					c.say("network: %s waits for a card %s that is not there", file, m[1])
				}
			}
		}
	}
}

// services holds what else of the old machine a boot would wait for or fail on.
func (c *checker) services(before *guesttest.FS) {
	for _, name := range []string{"etc/kdump.conf", "etc/default/grub_installdevice", "etc/sysconfig/bootloader", "boot/grub/device.map", "boot/grub2/device.map", "etc/mdadm.conf", "etc/mdadm/mdadm.conf", "etc/smartd.conf", "etc/sysconfig/rawdevices", "etc/hdparm.conf", "etc/lilo.conf"} {
		for l := range strings.Lines(c.read(name)) {
			for _, w := range strings.FieldsFunc(l, func(r rune) bool { return strings.ContainsRune(" \t\n=,\"'", r) }) {
				if strings.HasPrefix(strings.TrimSpace(l), "#") || !strings.HasPrefix(w, "/dev/") || !guest.Unstable(w) || strings.HasPrefix(w, "/dev/vd") {
					continue
				}
				c.say("device: %s names %s", name, w)
			}
		}
	}
	// kdump makes its image anew when its configuration is newer.
	config, _ := fs.ReadFile(before, "etc/kdump.conf")
	for _, name := range c.list("boot") {
		if strings.Contains(name, "kdump") && c.read("etc/kdump.conf") == string(config) {
			c.say("kdump: %s was made for the old machine", name)
		}
	}
	for _, tty := range []string{"hvc0", "xvc0"} {
		if _, err := c.tree.Lstat("etc/systemd/system/getty.target.wants/serial-getty@" + tty + ".service"); err == nil {
			c.say("console: serial-getty@%s waits for a console of Xen", tty)
		}
	}
	for _, name := range []string{"etc/rc.d/rc3.d/S05kudzu", "etc/sysconfig/hwconf"} {
		if _, err := c.tree.Lstat(name); err == nil {
			c.say("kudzu: %s makes the boot ask about hardware that went", name)
		}
	}
}

var (
	matchDriver = regexp.MustCompile(`(?m)^Driver=(.*)$`)
	oldDriver   = regexp.MustCompile(`\b(?:ena|vmxnet3|hv_netvsc|vif|ixgbevf)\b`)
)

// drivers holds that no file of networkd waits for a card of the old machine
// alone. A file in etc takes the place of one of that name (systemd.network(5)).
func (c *checker) drivers() {
	const etc = "etc/systemd/network"
	for _, file := range append(c.list(etc), c.list("usr/lib/systemd/network")...) {
		if path.Dir(file) != etc && c.exists(path.Join(etc, path.Base(file))) || path.Ext(file) != ".network" {
			continue
		}
		m := matchDriver.FindStringSubmatch(c.read(file))
		if m != nil && oldDriver.MatchString(m[1]) && !strings.Contains(m[1], "virtio_net") {
			c.say("network: %s is for cards of the drivers %s", file, m[1])
		}
	}
}

const label = "security.selinux"

// labels holds that in a guest whose files have labels what the fixes wrote has
// one too, or that all are set at the first boot.
func (c *checker) labels(t *testing.T, before *guesttest.FS) {
	if attr, err := before.Attr("etc/fstab"); err != nil || attr.Xattrs[label] == nil || c.exists(".autorelabel") {
		return
	}
	for _, change := range changesBetween(t, before, c.tree, ".") {
		if _, link := change.(fixes.Symlink); link {
			continue // a link is followed whatever its label
		}
		attr, err := c.tree.Attr(change.Target())
		if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(change.Target(), "boot/efi/") {
			continue
		}
		if was, err := before.Attr(change.Target()); err == nil && was.Xattrs[label] == nil {
			continue // written without one in this archive
		}
		if err != nil || attr.Xattrs[label] == nil {
			c.say("selinux: %s has no label", change.Target())
		}
	}
}

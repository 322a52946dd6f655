package sshguest

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
)

// sector is the unit of sizes and offsets in sysfs, whatever the disk's own is
// (Documentation/ABI/stable/sysfs-block).
const sector = 512

// machine is what machineScript prints, taken apart.
type machine struct {
	firmware string
	blocks   []*block
	cards    []*block
	blkid    map[string]map[string]string // by device
	mounts   []mountLine
}

// block is a device of the kernel's, with what is known of it.
type block struct {
	name   string
	values map[string]string
}

func (b *block) number(key string) int64 {
	n, err := strconv.ParseInt(b.values[key], 10, 64)
	if err != nil || n < 0 || n > 1<<53 {
		return 0
	}
	return n
}

// mountLine is one mount: device as major:minor and by name.
type mountLine struct{ dev, root, point, options, kind, source string }

// parseMachine reads what machineScript prints.
func parseMachine(out []byte) *guest.Facts {
	m := readMachine(out)
	facts := &guest.Facts{Firmware: m.firmware}
	m.disks(facts)
	m.filesystems(facts)
	m.mounted(facts)
	for _, c := range m.cards {
		mac := cmp.Or(c.values["bonding_slave/perm_hwaddr"], c.values["address"])
		facts.NICs = append(facts.NICs, guest.NIC{MAC: strings.ToLower(mac), Name: c.name, From: "the running guest"})
	}
	return facts
}

func readMachine(out []byte) *machine {
	m := &machine{blkid: map[string]map[string]string{}}
	section, here := "", (*block)(nil)
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if head, ok := strings.CutPrefix(line, "@"); ok {
			name := ""
			section, name, _ = strings.Cut(head, " ")
			here = &block{name: name, values: map[string]string{}}
			switch section {
			case "block":
				m.blocks = append(m.blocks, here)
			case "card":
				m.cards = append(m.cards, here)
			}
			continue
		}
		m.line(section, here, line)
	}
	return m
}

func (m *machine) line(section string, here *block, line string) {
	switch section {
	case "firmware":
		m.firmware = line
	case "block", "card":
		// What came first counts: blkid before udev.
		if key, value, ok := strings.Cut(line, "="); ok && here.values[key] == "" {
			here.values[key] = value
		}
	case "blkid":
		if dev, rest, ok := strings.Cut(line, ": "); ok {
			m.blkid[strings.TrimPrefix(dev, "/dev/")] = parseBlkid(rest)
		}
	case "mountinfo":
		if l, ok := parseMountinfo(line); ok {
			m.mounts = append(m.mounts, l)
		}
	case "mounts":
		if w := strings.Fields(line); len(w) >= 4 {
			m.mounts = append(m.mounts, mountLine{root: "/", source: inspect.Unescape(w[0]), point: inspect.Unescape(w[1]), kind: w[2], options: w[3]})
		}
	}
}

var blkidPair = regexp.MustCompile(`([A-Z_]+)="([^"]*)"`)

func parseBlkid(s string) map[string]string {
	out := map[string]string{}
	for _, p := range blkidPair.FindAllStringSubmatch(s, -1) {
		out[p[1]] = p[2]
	}
	return out
}

// parseMountinfo reads a line of /proc/self/mountinfo (proc(5)).
func parseMountinfo(line string) (mountLine, bool) {
	front, back, ok := strings.Cut(line, " - ")
	f, b := strings.Fields(front), strings.Fields(back)
	if !ok || len(f) < 6 || len(b) < 2 {
		return mountLine{}, false
	}
	l := mountLine{dev: f[2], root: inspect.Unescape(f[3]), point: inspect.Unescape(f[4]), options: f[5], kind: b[0], source: inspect.Unescape(b[1])}
	if len(b) > 2 {
		l.options += "," + b[2]
	}
	return l, true
}

// value is what blkid, or else udev, says of a device.
func (m *machine) value(b *block, udev, blkid string) string {
	if v := guest.UnescapeUdev(b.values[udev]); v != "" {
		return v
	}
	for _, name := range []string{strings.ReplaceAll(b.name, "!", "/"), "mapper/" + b.values["dm/name"]} {
		if v := m.blkid[name][blkid]; v != "" {
			return v
		}
	}
	return ""
}

func (b *block) isDisk() bool {
	return b.values["partition"] == "" && b.values["dm/uuid"] == "" && b.values["dm/name"] == "" && b.values["md/level"] == "" &&
		!strings.HasPrefix(b.name, "md") && !strings.HasPrefix(b.name, "dm-")
}

// parent is the disk that a partition lies on.
func (b *block) parent() string { return path.Base(path.Dir(b.values["path"])) }

var letters = regexp.MustCompile(`^(?:sd|hd|vd|xvd)([a-z]{1,2})$`)

// order is the place in disk order that a kernel name tells, or -1.
func order(name string) int {
	m := letters.FindStringSubmatch(name)
	if m == nil {
		return -1
	}
	n := 0
	for _, c := range m[1] {
		n = n*26 + int(c-'a') + 1
	}
	return n - 1
}

// disks lists the disks by their kernel names: sda is the first.
func (m *machine) disks(facts *guest.Facts) {
	var found []*block
	for _, b := range m.blocks {
		if b.isDisk() && b.number("size") > 0 {
			found = append(found, b)
		}
	}
	slices.SortFunc(found, func(x, y *block) int {
		return cmp.Or(cmp.Compare(len(x.name), len(y.name)), strings.Compare(x.name, y.name))
	})
	used := map[int]bool{}
	for _, b := range found {
		i := order(b.name)
		if i < 0 || used[i] {
			for i = 0; used[i]; i++ {
			}
		}
		used[i] = true
		d := guest.Disk{
			Index: i, Device: "/dev/" + b.name, Size: b.number("size") * sector, SectorSize: cmp.Or(b.number("queue/logical_block_size"), sector),
			Table: cmp.Or(m.value(b, "ID_PART_TABLE_TYPE", "PTTYPE"), "none"), TableID: m.value(b, "ID_PART_TABLE_UUID", "PTUUID"),
			BootCode: b.values["bootcode"],
		}
		for _, p := range m.blocks {
			if p.values["partition"] != "" && p.parent() == b.name {
				d.Partitions = append(d.Partitions, m.partition(p))
			}
		}
		slices.SortFunc(d.Partitions, func(x, y guest.Partition) int { return x.Number - y.Number })
		facts.Disks = append(facts.Disks, d)
	}
	slices.SortFunc(facts.Disks, func(x, y guest.Disk) int { return x.Index - y.Index })
}

func (m *machine) partition(p *block) guest.Partition {
	return guest.Partition{
		Number: int(p.number("partition")), Start: p.number("start") * sector, Size: p.number("size") * sector,
		Type: strings.ToLower(p.values["ID_PART_ENTRY_TYPE"]), UUID: m.value(p, "ID_PART_ENTRY_UUID", "PARTUUID"),
		Label: m.value(p, "ID_PART_ENTRY_NAME", "PARTLABEL"), Bootable: p.values["ID_PART_ENTRY_FLAGS"] == "0x80",
	}
}

// filesystems lists every device that holds something.
func (m *machine) filesystems(facts *guest.Facts) {
	for _, b := range m.blocks {
		f := guest.Filesystem{
			Device: "/dev/" + b.name, Disk: -1, Size: b.number("size") * sector,
			Type: m.value(b, "ID_FS_TYPE", "TYPE"), UUID: m.value(b, "ID_FS_UUID", "UUID"),
			Label: cmp.Or(guest.UnescapeUdev(b.values["ID_FS_LABEL_ENC"]), m.value(b, "ID_FS_LABEL", "LABEL")),
		}
		if f.Type == "" || !m.locate(facts, b, &f) {
			continue
		}
		facts.Filesystems = append(facts.Filesystems, f)
	}
	slices.SortStableFunc(facts.Filesystems, func(x, y guest.Filesystem) int {
		return cmp.Or(cmp.Compare(uint(x.Disk), uint(y.Disk)), x.Partition-y.Partition)
	})
}

// locate says where a file system lies: on a disk, in a partition, on a volume.
func (m *machine) locate(facts *guest.Facts, b *block, f *guest.Filesystem) bool {
	name := b.values["dm/name"]
	switch uuid := b.values["dm/uuid"]; {
	case strings.HasPrefix(uuid, "LVM-"):
		vg, lv, ok := guest.SplitMapper(name)
		f.Volume = vg + "/" + lv
		return ok
	case strings.HasPrefix(uuid, "CRYPT-"):
		f.Volume = "luks/" + name
		return true
	case name != "":
		facts.Warnings = append(facts.Warnings, fmt.Sprintf("/dev/mapper/%s: what lies below it is not known here", name))
		return false
	case strings.HasPrefix(b.name, "md"):
		f.Volume = "md/" + strings.TrimPrefix(b.name, "md")
		return true
	}
	disk := b.name
	if b.values["partition"] != "" {
		disk, f.Partition = b.parent(), int(b.number("partition"))
		f.PartUUID = m.value(b, "ID_PART_ENTRY_UUID", "PARTUUID")
	}
	i := slices.IndexFunc(facts.Disks, func(d guest.Disk) bool { return d.Device == "/dev/"+disk })
	if i >= 0 {
		f.Disk = facts.Disks[i].Index
	}
	return i >= 0
}

// mounted lists the mounts of the guest's own file systems, root first. A folder
// that is mounted a second time elsewhere (mount --bind) counts once.
func (m *machine) mounted(facts *guest.Facts) {
	for _, l := range m.mounts {
		f := m.mountedOn(facts, l)
		if f == nil || l.root != "/" && f.Type != "btrfs" {
			continue
		}
		var opts []string
		for o := range strings.SplitSeq(l.options, ",") {
			if (o == "ro" || strings.HasPrefix(o, "subvol=")) && !slices.Contains(opts, o) {
				opts = append(opts, o)
			}
		}
		facts.Mounts = slices.DeleteFunc(facts.Mounts, func(o guest.Mount) bool { return o.Point == l.point })
		facts.Mounts = append(facts.Mounts, guest.Mount{Point: l.point, Type: l.kind, Device: f.Device, UUID: f.UUID, Opts: strings.Join(opts, ",")})
	}
	slices.SortStableFunc(facts.Mounts, func(x, y guest.Mount) int { return len(x.Point) - len(y.Point) })
}

func (m *machine) mountedOn(facts *guest.Facts, l mountLine) *guest.Filesystem {
	for _, b := range m.blocks {
		source := strings.TrimPrefix(l.source, "/dev/")
		if b.values["dev"] != l.dev && source != b.name && source != "mapper/"+b.values["dm/name"] {
			continue
		}
		for i := range facts.Filesystems {
			if facts.Filesystems[i].Device == "/dev/"+b.name {
				return &facts.Filesystems[i]
			}
		}
	}
	return nil
}

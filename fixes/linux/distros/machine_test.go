package distros

import (
	"fmt"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
)

// machine is what the member "disks" tells: the machine as the plan and the
// probes of disks see it, in lines.
//
//	firmware bios                     or uefi; without the line the plan does not know
//	bus virtio                        or scsi: what the guest will boot from
//	devices uuid                      the user's choice, where there is one
//	nic 00:50:56:8a:00:01             in the plan's order; "nic -" has no address
//	nic 52:54:00:8a:00:01 was=00:50:56:8a:00:01
//	disk dos 000a1b2c grub            table, its number, "grub" with GRUB's boot code
//	  1 83 ext4 1f0c… label=boot mount=/boot
//	  2 8e LVM2_member Nx3B…          number, type, content, its UUID
//	disk none xfs 1f0c… mount=/data   content without a table
//	volume rhel/root xfs 2a… mount=/  of LVM, "md/0", "luks/NAME"
type machine struct {
	firmware, bus, devices string
	disks                  []guest.Disk
	filesystems            []guest.Filesystem
	mounts                 []guest.Mount
	nics                   []guest.NIC
}

func parseMachine(text string) (*machine, error) {
	m := &machine{bus: "virtio"}
	for l := range strings.Lines(text) {
		w := strings.Fields(l)
		if len(w) == 0 {
			continue
		}
		if err := m.line(w); err != nil {
			return nil, fmt.Errorf("%q: %w", strings.TrimSpace(l), err)
		}
	}
	return m, nil
}

func (m *machine) line(w []string) error {
	if len(w) < 2 {
		return fmt.Errorf("too short")
	}
	switch w[0] {
	case "firmware":
		m.firmware = w[1]
	case "bus":
		m.bus = w[1]
	case "devices":
		m.devices = w[1]
	case "nic":
		nic := guest.NIC{MAC: strings.TrimPrefix(w[1], "-")}
		if len(w) > 2 {
			nic.Was = strings.TrimPrefix(w[2], "was=")
		}
		m.nics = append(m.nics, nic)
	case "disk":
		return m.disk(w[1:])
	case "volume":
		if len(w) < 3 {
			return fmt.Errorf("too short")
		}
		m.content(guest.Filesystem{Disk: -1, Volume: w[1]}, w[2:])
	default:
		return m.partition(w)
	}
	return nil
}

func (m *machine) disk(w []string) error {
	d := guest.Disk{Index: len(m.disks), Size: 64 << 30, SectorSize: 512, Table: w[0]}
	switch {
	case d.Table == "none" && len(w) > 2:
		m.content(guest.Filesystem{Disk: d.Index}, w[1:])
	case d.Table != "none" && len(w) > 1:
		d.TableID = w[1]
		if slices.Contains(w, "grub") {
			d.BootCode = "grub"
		}
	default:
		return fmt.Errorf("too short")
	}
	m.disks = append(m.disks, d)
	return nil
}

// gptTypes are the types of partitions by the names that sfdisk(8) knows.
func gptTypes() map[string]string {
	return map[string]string{
		"esp": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "bios": "21686148-6449-6e6f-744e-656564454649",
		"linux": "0fc63daf-8483-4772-8e79-3d69d8477de4", "root": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
		"swap": "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "lvm": "e6d6d379-f507-44c2-a23c-238f2a3df928",
		"raid": "a19d880f-05fc-4d3b-a006-743f0f84911e", "boot": "bc13c2ff-59e6-4262-a352-b275fd6f7172",
	}
}

func (m *machine) partition(w []string) error {
	if len(m.disks) == 0 || len(w) < 3 {
		return fmt.Errorf("no partition")
	}
	d := &m.disks[len(m.disks)-1]
	var number int
	if _, err := fmt.Sscan(w[0], &number); err != nil {
		return err
	}
	p := guest.Partition{Number: number, Start: int64(number) << 20, Size: 1 << 30, Type: "0x" + w[1]}
	if d.Table == "gpt" {
		if p.Type = gptTypes()[w[1]]; p.Type == "" {
			return fmt.Errorf("no type %s", w[1])
		}
		p.UUID = fmt.Sprintf("%s-0000-4000-8000-0000000000%02d", d.TableID, number)
	} else {
		p.UUID = fmt.Sprintf("%s-%02d", d.TableID, number)
	}
	for _, x := range w[3:] {
		if l, ok := strings.CutPrefix(x, "partlabel="); ok {
			p.Label = l
		}
	}
	d.Partitions = append(d.Partitions, p)
	if w[2] != "-" {
		m.content(guest.Filesystem{Disk: d.Index, Partition: number, PartUUID: p.UUID}, w[2:])
	}
	return nil
}

// content adds a file system: its type, UUID and what else is told of it.
func (m *machine) content(s guest.Filesystem, w []string) {
	s.Device = fmt.Sprintf("/dev/test/%d-%d-%s", s.Disk, s.Partition, s.Volume)
	s.Type, s.Size = w[0], 1<<30
	if len(w) > 1 && !strings.Contains(w[1], "=") {
		s.UUID = w[1]
	}
	for _, x := range w[1:] {
		switch key, value, _ := strings.Cut(x, "="); key {
		case "label":
			s.Label = strings.ReplaceAll(value, `\040`, " ")
		case "note":
			s.Note = value
		case "mount":
			for point := range strings.SplitSeq(value, ",") {
				m.mounts = append(m.mounts, guest.Mount{Point: point, Type: s.Type, Device: s.Device, UUID: s.UUID, Free: 1 << 30, Inodes: 1 << 20})
			}
		}
	}
	m.filesystems = append(m.filesystems, s)
}

// facts is what inspection of the files starts from. As the helper that puts the
// tree together does, a mount keeps what fstab says of it.
func (m *machine) facts(tree guest.FS) guest.Facts {
	f := guest.Facts{Firmware: m.firmware, TargetBus: m.bus, Disks: slices.Clone(m.disks),
		Filesystems: slices.Clone(m.filesystems), Mounts: slices.Clone(m.mounts), NICs: slices.Clone(m.nics)}
	slices.SortStableFunc(f.Mounts, func(a, b guest.Mount) int { return len(a.Point) - len(b.Point) })
	data, err := inspect.ReadFile(tree, "etc/fstab")
	if err != nil {
		return f
	}
	for _, e := range inspect.Fstab(data) {
		for i := range f.Mounts {
			if f.Mounts[i].Point == e.Point {
				f.Mounts[i].Spec, f.Mounts[i].Opts = e.Spec, strings.Join(e.Options, ",")
			}
		}
	}
	return f
}

package ovf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/formats"
)

// Types of resources (CIM_ResourceAllocationSettingData.ResourceType).
const (
	typeCPU          = "3"
	typeMemory       = "4"
	typeIDE          = "5"
	typeSCSI         = "6"
	typeEthernet     = "10"
	typeDisk         = "17"
	typeOtherStorage = "20" // SATA and NVMe controllers, too
	typeLogicalDisk  = "31"
)

// item is a piece of virtual hardware.
type item struct {
	*element
	id, typ string
}

// controller is where disks are attached.
type controller struct {
	bus, model string
	number     int
}

// machine reads one virtual system.
func (r *reader) machine(e *element) (*Machine, error) {
	m := &Machine{ID: cut(e.attr("id")), Name: cut(e.get("Name")), Warnings: slices.Clone(r.warnings)}
	if m.Name == "" {
		m.Name = m.ID
	}
	m.Guest = guestOf(e)
	sections := e.all("VirtualHardwareSection")
	if len(sections) > 1 {
		// Alternatives of the same machine; the first is the usual one.
		m.Warnings = append(m.Warnings, fmt.Sprintf("the machine has %d hardware sections: the first is taken", len(sections)))
	}
	if len(sections) > 0 {
		if err := r.hardware(m, sections[0], bootItem(e, r.root)); err != nil {
			return nil, err
		}
	}
	virtualBox(m, e.child("Machine"))
	sortDisks(m.Disks)
	m.bound()
	return m, nil
}

// guestOf is the kind of guest as its hypervisor calls it, else in words.
func guestOf(e *element) string {
	s := e.child("OperatingSystemSection")
	for _, name := range []string{s.attr("osType"), s.get("OSType"), s.get("Description"), s.attr("id")} {
		if name != "" {
			return cut(name)
		}
	}
	return ""
}

// bootItem is the id of the disk that VMware boots from, "" when it is not said.
func bootItem(places ...*element) string {
	for _, e := range places {
		for _, s := range e.all("BootOrderSection") {
			if s.attr("type") == "disk" {
				return s.attr("instanceId")
			}
		}
	}
	return ""
}

func (r *reader) hardware(m *Machine, section *element, boot string) error {
	items := r.items(section)
	settings(m, section)
	controllers := controllersOf(items)
	for _, i := range items {
		switch i.typ {
		case typeCPU:
			m.CPUs += cpus(m, i)
		case typeMemory:
			n, ok := bytesIn(i.get("VirtualQuantity"), i.get("AllocationUnits"), "MegaBytes")
			if !ok {
				m.Warnings = append(m.Warnings, fmt.Sprintf("memory of %q %q is not understood", i.get("VirtualQuantity"), i.get("AllocationUnits")))
			}
			m.Memory = n
		case typeEthernet:
			if len(m.NICs) >= maxDisks {
				return fmt.Errorf("more than %d network cards: %w", maxDisks, formats.ErrUnsupported)
			}
			m.addNIC(i.get("Address"), NIC{Network: cut(i.get("Connection")), Model: cut(i.get("ResourceSubType"))})
		case typeDisk, typeLogicalDisk:
			if err := r.attach(m, i, controllers, boot); err != nil {
				return err
			}
		}
	}
	return nil
}

// items lists the hardware of the chosen deployment option: an item for it
// replaces the one of the same id that is for all.
func (r *reader) items(section *element) []item {
	var out []item
	at := map[string]int{}
	for _, e := range section.under {
		if !slices.Contains([]string{"Item", "StorageItem", "EthernetPortItem"}, e.name) {
			continue
		}
		i := item{element: e, id: e.get("InstanceID"), typ: e.get("ResourceType")}
		config := strings.Fields(e.attr("configuration"))
		if len(config) > 0 && !slices.Contains(config, r.config) {
			continue
		}
		if n, ok := at[i.id]; ok && i.id != "" && (len(config) > 0) != (out[n].attr("configuration") != "") {
			if len(config) > 0 {
				out[n] = i
			}
			continue
		}
		at[i.id] = len(out)
		out = append(out, i)
	}
	return out
}

// settings reads what VMware says of the whole machine, by key and value.
func settings(m *Machine, section *element) {
	for _, e := range section.under {
		if e.name != "Config" && e.name != "ExtraConfig" {
			continue
		}
		switch value := e.attr("value"); strings.ToLower(e.attr("key")) {
		case "firmware":
			m.Firmware = firmware(value)
		case "bootoptions.efisecurebootenabled", "uefi.secureboot.enabled":
			m.SecureBoot = m.SecureBoot || isTrue(value)
		}
	}
}

func cpus(m *Machine, i item) int {
	n, err := strconv.Atoi(i.get("VirtualQuantity"))
	if err != nil || n < 0 || n > maxCPUs || m.CPUs > maxCPUs {
		m.Warnings = append(m.Warnings, fmt.Sprintf("a number of CPUs of %q is not understood", i.get("VirtualQuantity")))
		return 0
	}
	return n
}

// controllersOf finds the controllers by the id that disks give as their parent.
func controllersOf(items []item) map[string]controller {
	out := map[string]controller{}
	count := map[string]int{}
	for _, i := range items {
		c := controller{model: cut(i.get("ResourceSubType"))}
		model := strings.ToLower(c.model)
		switch {
		case i.typ == typeIDE:
			c.bus = "ide"
		case i.typ == typeSCSI, i.typ == typeOtherStorage && strings.Contains(model, "scsi"):
			c.bus = "scsi"
		case i.typ == typeOtherStorage && strings.Contains(model, "nvme"):
			c.bus = "nvme"
		case i.typ == typeOtherStorage && (strings.Contains(model, "ahci") || strings.Contains(model, "sata")):
			c.bus = "sata"
		default:
			continue
		}
		c.number = count[c.bus]
		for _, name := range []string{"Address", "BusNumber"} {
			if n, err := strconv.Atoi(i.get(name)); err == nil && n >= 0 {
				c.number = n
				break
			}
		}
		count[c.bus]++
		out[i.id] = c
	}
	return out
}

// attach adds the disk that an item of hardware refers to.
func (r *reader) attach(m *Machine, i item, controllers map[string]controller, boot string) error {
	ref := i.get("HostResource")
	id, isDisk := r.reference(ref)
	if !isDisk {
		m.Warnings = append(m.Warnings, fmt.Sprintf("a disk is backed by %q, which is not in the package: left out", cut(ref)))
		return nil
	}
	d, err := r.disk(id)
	if err != nil {
		return err
	}
	if len(m.Disks) >= maxDisks {
		return fmt.Errorf("more than %d disks: %w", maxDisks, formats.ErrUnsupported)
	}
	d.Unit = len(m.Disks)
	if c, ok := controllers[i.get("Parent")]; ok {
		d.Bus, d.Model, d.Controller = c.bus, c.model, c.number
	}
	if n, err := strconv.Atoi(i.get("AddressOnParent")); err == nil && n >= 0 {
		d.Unit = n
	}
	d.Boot = boot != "" && i.id == boot
	m.Disks = append(m.Disks, d)
	return nil
}

// reference reads "ovf:/disk/vmdisk1", "/disk/vmdisk1", "disk/vmdisk1" (DSP0243
// 2.1.1, 8.5), and oVirt's path of the file.
func (r *reader) reference(s string) (id string, ok bool) {
	path := strings.TrimLeft(strings.TrimPrefix(s, "ovf:"), "/")
	if id, ok := strings.CutPrefix(path, "disk/"); ok {
		return id, true
	}
	for _, id := range r.order {
		if d := r.disks[id]; s != "" && (d.fileRef == s || d.fileRef == path || d.File != nil && d.File.Name == s) {
			return id, true
		}
	}
	// "file/x" of a disk is a raw image: a reference without an entry among the disks.
	if f, ok := r.files[strings.TrimPrefix(path, "file/")]; ok && strings.HasPrefix(path, "file/") {
		id := "file " + f.ID
		if _, had := r.disks[id]; !had {
			r.disks[id] = diskElement{Disk: Disk{ID: id, File: &f}}
		}
		return id, true
	}
	return "", false
}

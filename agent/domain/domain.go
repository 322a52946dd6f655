// Package domain writes the libvirt domain XML of a converted machine: devices
// that its repaired guest has drivers for, in the firmware it was installed
// with, and its network cards with the addresses they had.
//
// The elements are described at https://libvirt.org/formatdomain.html.
package domain

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"
)

// ErrConfig says that a Config does not describe a machine.
var ErrConfig = errors.New("impossible machine")

// Config describes a machine. Its zero values are the usual choices.
type Config struct {
	Name string
	// UUID of the domain; "" derives one from the name and the paths of the
	// disks, so that the same plan gives the same machine.
	UUID   string
	Memory int64 // bytes; 0 is 2 GiB
	CPUs   int   // 0 is 2
	// Firmware is "bios" ("" is that) or "uefi".
	Firmware string
	// SecureBoot has UEFI start signed loaders only. Guests that were not
	// installed under it mostly do not boot with it.
	SecureBoot bool
	// Machine is "q35" ("" is that), or "pc" for guests too old for PCI Express.
	Machine string
	// LocalTime is for guests that take the machine's clock for local time.
	LocalTime bool
	// CPU is the least level of the processor that the guest needs: "x86-64-v2",
	// "x86-64-v3". "" is any.
	CPU string
	// Transitional gives the guest virtio devices that drivers older than version
	// 1.0 of virtio know, too. A pc machine's are that anyway.
	Transitional bool
	// Emulated is for hosts without KVM: QEMU translates the guest's code.
	Emulated bool
	Disks    []Disk
	NICs     []NIC
}

// Disk is one disk of the machine.
type Disk struct {
	Path   string // absolute
	Format string // "qcow2" ("" is that), "raw", "vmdk", "vhd", "vhdx", "vdi"
	// Bus is "virtio" ("" is that), "scsi" (virtio-scsi), or "sata", which is
	// "ide" on a pc machine.
	Bus string
	// Boot is the place in the boot order, from 1; 0 is none. When no disk has
	// one, the first disk boots.
	Boot int
	// Sector is the logical sector size in bytes; 0 is 512.
	Sector int64
	// Block says that Path is a block device.
	Block bool
}

// NIC is one network card of the machine.
type NIC struct {
	MAC     string // "" leaves the choice to libvirt
	Network string // libvirt network; "" is "default"
	Model   string // "virtio" ("" is that), "e1000e", "e1000", "rtl8139"
}

// Defaults of a Config.
const (
	defaultMemory = 2 << 30
	defaultCPUs   = 2
)

// XML gives the domain XML of a machine.
func XML(c Config) ([]byte, error) {
	if err := c.fill(); err != nil {
		return nil, fmt.Errorf("domain %q: %w", c.Name, err)
	}
	d := libvirtxml.Domain{
		Type: "kvm", Name: c.Name, UUID: c.UUID,
		Memory: &libvirtxml.DomainMemory{Value: uint((c.Memory + 1023) / 1024), Unit: "KiB"},
		VCPU:   &libvirtxml.DomainVCPU{Value: uint(c.CPUs)},
		OS:     c.os(), CPU: c.cpu(), Clock: c.clock(),
		Features:   &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "restart",
		Devices: c.devices(),
	}
	if c.Emulated {
		d.Type = "qemu"
	}
	text, err := d.Marshal()
	if err != nil {
		return nil, fmt.Errorf("domain %q: %w", c.Name, err)
	}
	return append(shorten([]byte(text)), '\n'), nil
}

// shorten writes elements without content as one tag. The encoder escapes ">",
// so that "></" is only found between the two tags of such an element.
func shorten(text []byte) []byte {
	return regexp.MustCompile(`></[^>]+>`).ReplaceAll(text, []byte("/>"))
}

// namespace makes UUIDs of ours different from others' of the same names.
func namespace() uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceDNS, []byte("hyper2kvm")) }

// fill puts the usual choices in and refuses what cannot be.
func (c *Config) fill() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, ErrConfig)...)
	}
	setDefault(&c.Firmware, "bios")
	setDefault(&c.Machine, "q35")
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.CPUs == 0 {
		c.CPUs = defaultCPUs
	}
	switch {
	// libvirt's schema forbids a name with a newline; a slash would lead its
	// file out of the folder of domains.
	case strings.TrimSpace(c.Name) == "" || strings.ContainsRune(c.Name, '/') || strings.ContainsFunc(c.Name, unicode.IsControl):
		return refuse("name")
	case c.Memory < 1<<20 || c.CPUs < 1:
		return refuse("memory of %d bytes, %d CPUs", c.Memory, c.CPUs)
	case c.Firmware != "bios" && c.Firmware != "uefi":
		return refuse("firmware %q", c.Firmware)
	case c.CPU != "" && levelFeatures(c.CPU) == nil:
		return refuse("processor %q", c.CPU)
	case c.Machine != "q35" && c.Machine != "pc":
		return refuse("machine %q", c.Machine)
	case c.SecureBoot && (c.Firmware != "uefi" || c.Machine != "q35"):
		return refuse("secure boot needs UEFI on a q35 machine")
	}
	c.Disks, c.NICs = append([]Disk(nil), c.Disks...), append([]NIC(nil), c.NICs...)
	if err := c.fillDisks(); err != nil {
		return err
	}
	if err := c.fillNICs(); err != nil {
		return err
	}
	if c.UUID == "" {
		c.UUID = c.deriveUUID().String()
	} else if _, err := uuid.Parse(c.UUID); err != nil {
		return refuse("UUID %q", c.UUID)
	}
	return nil
}

func (c *Config) deriveUUID() uuid.UUID {
	seed := c.Name
	for _, d := range c.Disks {
		seed += "\x00" + d.Path
	}
	return uuid.NewSHA1(namespace(), []byte(seed))
}

func (c *Config) fillDisks() error {
	boots := false
	for i := range c.Disks {
		d := &c.Disks[i]
		setDefault(&d.Format, "qcow2")
		setDefault(&d.Bus, "virtio")
		boots = boots || d.Boot > 0
		if !filepath.IsAbs(d.Path) {
			return fmt.Errorf("path %q of disk %d is not absolute: %w", d.Path, i, ErrConfig)
		}
		if busPrefix(d.Bus) == "" {
			return fmt.Errorf("bus %q of %s: %w", d.Bus, d.Path, ErrConfig)
		}
		if d.Bus == "sata" && c.Machine == "pc" {
			d.Bus = "ide" // the pc machine has no AHCI of its own; IDE needs no driver either
		}
	}
	if !boots && len(c.Disks) > 0 {
		c.Disks[0].Boot = 1
	}
	return nil
}

func (c *Config) fillNICs() error {
	for i := range c.NICs {
		n := &c.NICs[i]
		setDefault(&n.Network, "default")
		setDefault(&n.Model, "virtio")
		if n.MAC == "" {
			continue
		}
		mac, err := net.ParseMAC(n.MAC)
		// Bit 0 of the first byte marks a group address (IEEE 802), which
		// libvirt refuses for a card.
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return fmt.Errorf("MAC address %q: %w", n.MAC, ErrConfig)
		}
		n.MAC = mac.String()
	}
	return nil
}

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// busPrefix is how libvirt's names of disks on a bus begin, "" for a bus that
// is not offered.
func busPrefix(bus string) string {
	switch bus {
	case "virtio":
		return "vd"
	case "scsi", "sata":
		return "sd"
	case "ide":
		return "hd"
	}
	return ""
}

// Letters is the name of disk i, from 0: a, b, …, z, aa, ab, …
func Letters(i int) string {
	s := ""
	for i++; i > 0; i = (i - 1) / 26 {
		s = string(rune('a'+(i-1)%26)) + s
	}
	return s
}

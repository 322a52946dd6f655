package domain

import (
	"libvirt.org/go/libvirtxml"
)

func (c *Config) os() *libvirtxml.DomainOS {
	o := &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: c.Machine, Type: "hvm"}}
	if c.Firmware != "uefi" {
		return o
	}
	// libvirt then finds the firmware's files on the host itself, whatever the
	// distribution calls them.
	o.Firmware = "efi"
	o.FirmwareInfo = &libvirtxml.DomainOSFirmwareInfo{Features: []libvirtxml.DomainOSFirmwareFeature{
		// Keys that are enrolled would have the firmware refuse loaders that
		// the guest never had to sign.
		{Enabled: yesNo(c.SecureBoot), Name: "enrolled-keys"},
		{Enabled: yesNo(c.SecureBoot), Name: "secure-boot"},
	}}
	return o
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// cpu is that of the host. QEMU's default model, qemu64, is below x86-64-v2,
// which RHEL 9 and its kin are built for, and x86-64-v3, which RHEL 10 is: such
// guests stop before their first line of output ("Fatal glibc error: CPU does
// not support x86-64-v2").
func (c *Config) cpu() *libvirtxml.DomainCPU {
	if c.Emulated {
		return &libvirtxml.DomainCPU{Mode: "maximum"} // libvirt has no host-model without KVM
	}
	cpu := &libvirtxml.DomainCPU{Mode: "host-model", Check: "partial"}
	for _, name := range levelFeatures(c.CPU) {
		cpu.Features = append(cpu.Features, libvirtxml.DomainCPUFeature{Policy: "require", Name: name})
	}
	return cpu
}

// levelFeatures are what a level has over the first, in libvirt's names
// (x86-64 psABI, table "Micro-Architecture Levels"). A domain that requires them
// is refused by a host without, and not started to stop in its first program.
func levelFeatures(level string) []string {
	v2 := []string{"cx16", "lahf_lm", "popcnt", "pni", "sse4.1", "sse4.2", "ssse3"}
	switch level {
	case "x86-64-v2":
		return v2
	case "x86-64-v3":
		return append(v2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")
	}
	return nil
}

// virtio is the model of virtio devices where their elements take one.
func (c *Config) virtio() string {
	if c.Transitional && c.Machine == "q35" {
		return "virtio-transitional"
	}
	return "virtio"
}

// clock is what virt-install gives machines: lost ticks are caught up, and the
// HPET, which costs much and is of no use, is off.
func (c *Config) clock() *libvirtxml.DomainClock {
	offset := "utc"
	if c.LocalTime {
		offset = "localtime"
	}
	return &libvirtxml.DomainClock{Offset: offset, Timer: []libvirtxml.DomainTimer{
		{Name: "rtc", TickPolicy: "catchup"},
		{Name: "pit", TickPolicy: "delay"},
		{Name: "hpet", Present: "no"},
	}}
}

func (c *Config) devices() *libvirtxml.DomainDeviceList {
	port := uint(0)
	pty := &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}
	return &libvirtxml.DomainDeviceList{
		Disks:       c.disks(),
		Controllers: c.controllers(),
		Interfaces:  c.interfaces(),
		Serials: []libvirtxml.DomainSerial{{Source: pty,
			Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: &port}}},
		Consoles: []libvirtxml.DomainConsole{{Source: pty,
			Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &port}}},
		Channels: []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}},
			// The name that qemu-guest-agent opens in the guest.
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: "org.qemu.guest_agent.0"}},
		}},
		// A tablet has absolute positions: the pointer is where the viewer's is.
		Inputs: []libvirtxml.DomainInput{{Type: "tablet", Bus: "usb"}},
		Graphics: []libvirtxml.DomainGraphic{{VNC: &libvirtxml.DomainGraphicVNC{Port: -1, AutoPort: "yes",
			Listeners: []libvirtxml.DomainGraphicListener{{Address: &libvirtxml.DomainGraphicListenerAddress{Address: "127.0.0.1"}}}}}},
		// Plain VGA needs no driver to be seen, in any guest.
		Videos:     []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "vga"}}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: c.virtio()},
		// Guests of VMware had no source of entropy; without one an old kernel
		// waits for minutes before sshd has its keys.
		RNGs: []libvirtxml.DomainRNG{{Model: c.virtio(),
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}}}},
	}
}

// driver is what QEMU calls a format.
func driver(format string) string {
	if format == "vhd" {
		return "vpc"
	}
	return format
}

func (c *Config) disks() []libvirtxml.DomainDisk {
	var out []libvirtxml.DomainDisk
	used := make(map[string]int) // disks by prefix of their names
	for _, d := range c.Disks {
		prefix := busPrefix(d.Bus)
		disk := libvirtxml.DomainDisk{
			Device: "disk",
			// What the guest discards is given back to the host.
			Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: driver(d.Format), Discard: "unmap"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: d.Path}},
			Target: &libvirtxml.DomainDiskTarget{Dev: prefix + Letters(used[prefix]), Bus: d.Bus},
		}
		if model := c.virtio(); d.Bus == "virtio" && model != "virtio" {
			disk.Model = model
		}
		if d.Block {
			disk.Source = &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: d.Path}}
		}
		if d.Sector != 0 && d.Sector != 512 {
			disk.BlockIO = &libvirtxml.DomainDiskBlockIO{LogicalBlockSize: uint(d.Sector), PhysicalBlockSize: uint(d.Sector)}
		}
		if d.Boot > 0 {
			disk.Boot = &libvirtxml.DomainDeviceBoot{Order: uint(d.Boot)}
		}
		used[prefix]++
		out = append(out, disk)
	}
	return out
}

// controllers are those that libvirt would not choose by itself.
func (c *Config) controllers() []libvirtxml.DomainController {
	var out []libvirtxml.DomainController
	zero := uint(0)
	if c.Machine == "q35" {
		out = append(out, libvirtxml.DomainController{Type: "usb", Index: &zero, Model: "qemu-xhci"})
	}
	for _, d := range c.Disks {
		if d.Bus == "scsi" {
			// libvirt's own choice would be an LSI 53c895a, which current guests have no driver for.
			out = append(out, libvirtxml.DomainController{Type: "scsi", Index: &zero, Model: c.virtioModel("virtio-scsi")})
			break
		}
	}
	return append(out, libvirtxml.DomainController{Type: "virtio-serial", Index: &zero, Model: c.virtioModel("")})
}

// virtioModel is the model of a virtio controller, whose usual one has a name of
// its own.
func (c *Config) virtioModel(usual string) string {
	if m := c.virtio(); m != "virtio" {
		return m
	}
	return usual
}

func (c *Config) interfaces() []libvirtxml.DomainInterface {
	var out []libvirtxml.DomainInterface
	for _, n := range c.NICs {
		i := libvirtxml.DomainInterface{
			Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: n.Network}},
			Model:  &libvirtxml.DomainInterfaceModel{Type: n.Model},
		}
		if n.Model == "virtio" {
			i.Model.Type = c.virtio()
		}
		if n.MAC != "" {
			i.MAC = &libvirtxml.DomainInterfaceMAC{Address: n.MAC}
		}
		out = append(out, i)
	}
	return out
}

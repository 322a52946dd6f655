package guest

import "slices"

// espType is the type of an EFI system partition by GPT and by MBR (UEFI
// specification 2.10, table 5.7 and section 5.2.2).
func espType(kind string) bool {
	return kind == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" || kind == "0xef"
}

// BootDisk is the index of the disk that the firmware has to start from: the
// first that holds a boot loader. Another one in its place starts nothing.
func (f *Facts) BootDisk() int {
	holds := func(d Disk) bool {
		if f.Firmware == "uefi" {
			return slices.ContainsFunc(d.Partitions, func(p Partition) bool { return espType(p.Type) })
		}
		return d.BootCode == "grub"
	}
	active := func(d Disk) bool {
		return d.BootCode != "none" && slices.ContainsFunc(d.Partitions, func(p Partition) bool { return p.Bootable })
	}
	for _, test := range []func(Disk) bool{holds, active} {
		if i := slices.IndexFunc(f.Disks, test); i >= 0 {
			return f.Disks[i].Index
		}
	}
	return 0
}

// BootBuses are the buses that the guest can boot from: those that the kernel
// has drivers for that is going to be started. Nil is not known.
func (f *Facts) BootBuses() []string {
	if k := f.KVMKernel(); k != nil {
		return k.Buses
	}
	return nil
}

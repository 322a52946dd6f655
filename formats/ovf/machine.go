// Package ovf reads what is known of a machine beside its disks: OVF
// descriptors (0.9, 1.x, 2.x, with VMware's and VirtualBox's extensions), their
// manifests and signatures, the tar archive that holds them all (OVA), and
// VMware's own VMX files.
//
// Descriptors come from many programs and from strangers: elements are known by
// their local names, everything is bounded, nothing is opened, and the names of
// files are given as they are written. Who opens them decides which are allowed.
//
// The format is that of DMTF DSP0243 (1.1.1 and 2.1.1); 0.9 is VMware's draft.
package ovf

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Machine is one machine as its source describes it. Zero values are what the
// source does not say.
type Machine struct {
	ID   string `json:"id,omitempty"` // of the descriptor, unique in it
	Name string `json:"name,omitempty"`
	CPUs int    `json:"cpus,omitempty"`
	// Memory is in bytes.
	Memory int64 `json:"memory,omitempty"`
	// Firmware is "bios" or "uefi".
	Firmware   string `json:"firmware,omitempty"`
	SecureBoot bool   `json:"secure_boot,omitempty"`
	// Guest is the kind of operating system in the source's words:
	// "windows9_64Guest", "rhel6-64", "Ubuntu_64".
	Guest string `json:"guest,omitempty"`
	// Disks are in the order in which the source's BIOS finds them.
	Disks []Disk `json:"disks,omitempty"`
	NICs  []NIC  `json:"nics,omitempty"`
	// Warnings are things left out or doubtful, in words for the user.
	Warnings []string `json:"warnings,omitempty"`
}

// Disk is a virtual hard disk and where it is attached.
type Disk struct {
	ID string `json:"id"` // of the descriptor: "vmdisk1", "scsi0:1"
	// Bus is "scsi", "sata", "nvme" or "ide", "" where it is not known.
	Bus        string `json:"bus,omitempty"`
	Controller int    `json:"controller"`
	Unit       int    `json:"unit"`
	Model      string `json:"model,omitempty"` // of the controller: "lsilogic", "pvscsi", "AHCI"
	// Boot says that the source boots from this one, whatever the order.
	Boot bool `json:"boot,omitempty"`
	// Capacity is the size that the guest sees, in bytes; 0 is not known.
	Capacity int64 `json:"capacity,omitempty"`
	// Format is the URI by which the descriptor names the format of the file.
	Format string `json:"format,omitempty"`
	// File is nil for a disk that is yet to be made, empty.
	File *File `json:"file,omitempty"`
	// Parents are the files that File stands on, its own parent first.
	Parents []File `json:"parents,omitempty"`
}

// File is a file that a descriptor names.
type File struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name"` // as written: a relative path, or anything else
	// Size is that of the file in bytes as the descriptor says it, -1 where it does not.
	Size int64 `json:"size"`
	Gzip bool  `json:"gzip,omitempty"`
	// Chunk is the size of the pieces that the file is cut into, in bytes, 0 for
	// one that is whole (DSP0243 2.1.1, 7.1).
	Chunk int64 `json:"chunk,omitempty"`
}

// NIC is a network interface.
type NIC struct {
	MAC     string `json:"mac,omitempty"` // aa:bb:cc:dd:ee:ff
	Network string `json:"network,omitempty"`
	Model   string `json:"model,omitempty"`
}

// sortDisks brings disks into the order of their controllers and units: SCSI
// first, as VMware's firmware has it, IDE last.
func sortDisks(disks []Disk) {
	rank := func(d Disk) int {
		if i := slices.Index([]string{"scsi", "sata", "nvme", "ide"}, d.Bus); i >= 0 {
			return i
		}
		return 4
	}
	slices.SortStableFunc(disks, func(a, b Disk) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Controller, b.Controller), cmp.Compare(a.Unit, b.Unit))
	})
}

// maxWarnings bounds what is told of one machine.
const maxWarnings = 100

// bound keeps a description that is wrong all over from filling reports.
func (m *Machine) bound() {
	if n := len(m.Warnings) - maxWarnings; n > 0 {
		m.Warnings = append(m.Warnings[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more of the kind", n))
	}
}

// macAddress gives a MAC address in its usual form, "" for what is none or
// cannot be a card's: all zero, or a group address (bit 0 of the first byte,
// IEEE 802). VirtualBox writes it without colons.
func macAddress(s string) string {
	s = strings.TrimSpace(s)
	if len(s) == 12 && !strings.ContainsAny(s, ":-.") {
		s = s[0:2] + ":" + s[2:4] + ":" + s[4:6] + ":" + s[6:8] + ":" + s[8:10] + ":" + s[10:12]
	}
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return ""
	}
	return mac.String()
}

// addNIC adds a card with the address as its source writes it. One that no card
// can have is told of: the machine gets another in its place.
func (m *Machine) addNIC(address string, n NIC) {
	if n.MAC = macAddress(address); n.MAC == "" && strings.TrimSpace(address) != "" {
		m.Warnings = append(m.Warnings, fmt.Sprintf("network card %d has the address %q, which no card can have: left out", len(m.NICs)+1, cut(address)))
	}
	m.NICs = append(m.NICs, n)
}

// firmware gives our word for a source's.
func firmware(s string) string {
	switch s = strings.ToLower(strings.TrimSpace(s)); {
	case s == "bios":
		return "bios"
	case s == "uefi" || strings.HasPrefix(s, "efi"): // VirtualBox: EFI, EFI32, EFI64, EFIDUAL
		return "uefi"
	}
	return ""
}

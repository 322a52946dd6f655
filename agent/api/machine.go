package api

import "fmt"

// Name is what messages call the source: its path, with the number of the disk
// where the path is that of a machine's description.
func (s Source) Name() string {
	if s.Disk != 0 {
		return fmt.Sprintf("%s#%d", s.Path, s.Disk)
	}
	return s.Path
}

// MachineReport is the source machine as its OVA, OVF or VMX file describes it.
// What a run made of that, with what its plan says beside, is in the rest of the
// report.
type MachineReport struct {
	Path string `json:"path"` // of the description
	Kind string `json:"kind"` // "ova", "ovf", "vmx"
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
	// Guest is the kind of operating system in the source's words.
	Guest      string `json:"guest,omitempty"`
	CPUs       int    `json:"cpus,omitempty"`
	Memory     int64  `json:"memory,omitempty"` // bytes
	Firmware   string `json:"firmware,omitempty"`
	SecureBoot bool   `json:"secure_boot,omitempty"`
	// Disks are all that the machine has, in its order.
	Disks []DescribedDisk `json:"disks"`
	NICs  []DescribedNIC  `json:"nics,omitempty"`
	// Manifest says what the files were compared with; nil for a package without one.
	Manifest *ManifestReport `json:"manifest,omitempty"`
}

// DescribedDisk is a disk as the source machine has it.
type DescribedDisk struct {
	Number     int    `json:"number"` // from 1: PATH#NUMBER is the disk
	ID         string `json:"id"`
	File       string `json:"file,omitempty"` // as it is written; "" for a disk that is yet to be made
	Capacity   int64  `json:"capacity,omitempty"`
	Bus        string `json:"bus,omitempty"`
	Controller int    `json:"controller"`
	Unit       int    `json:"unit"`
	Model      string `json:"model,omitempty"` // of the controller
	Boot       bool   `json:"boot,omitempty"`
}

// DescribedNIC is a network interface as the source machine has it.
type DescribedNIC struct {
	MAC     string `json:"mac,omitempty"`
	Network string `json:"network,omitempty"` // in the source's words
	Model   string `json:"model,omitempty"`
}

// ManifestReport says what the digests of a package were good for.
type ManifestReport struct {
	Listed int  `json:"listed"` // files in use that have a digest
	Signed bool `json:"signed"` // with a signature that is right
	// Verified says that all bytes of the listed files were compared.
	Verified bool `json:"verified"`
}

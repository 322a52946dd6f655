package api

import "hyper2kvm/fixes/guest"

// Status is how a run ended.
type Status string

// The ends of a run.
const (
	Done        Status = "done"
	Unproven    Status = "unproven" // done, but not proven to boot
	Refused     Status = "refused"  // the input is unsafe to touch
	Failed      Status = "failed"
	Interrupted Status = "interrupted"
)

// Report is the outcome of a run.
type Report struct {
	Version  int            `json:"version"`
	Name     string         `json:"name"`
	Status   Status         `json:"status"`
	Error    *Error         `json:"error,omitempty"`
	Stages   []StageTime    `json:"stages,omitempty"`
	Disks    []DiskReport   `json:"disks,omitempty"`
	Machine  *MachineReport `json:"machine,omitempty"`
	Guest    *guest.Facts   `json:"guest,omitempty"`
	Fixes    []FixReport    `json:"fixes,omitempty"`
	Target   *TargetReport  `json:"target,omitempty"`
	Verdicts []Verdict      `json:"verdicts,omitempty"`
	Compare  *Comparison    `json:"compare,omitempty"`
	Checks   []ImageCheck   `json:"checks,omitempty"`
	Digests  *DigestList    `json:"digests,omitempty"`
	Verified *DigestCheck   `json:"verified,omitempty"`
	Served   *Served        `json:"served,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`
	Outputs  []string       `json:"outputs,omitempty"` // reports written beside the result
	// Accel is the accelerator the virtual machines of this run used and why.
	Accel string `json:"accelerator,omitempty"`
}

// StageTime says what the time went to.
type StageTime struct {
	Stage   Stage   `json:"stage"`
	Seconds float64 `json:"seconds"`
	// Detail says what the time went to inside the stage.
	Detail string `json:"detail,omitempty"`
}

// DiskReport is one disk, from source to output.
type DiskReport struct {
	Source    string    `json:"source"`
	Number    int       `json:"number,omitempty"` // of the disk in the source machine, where that is described
	Format    string    `json:"format"`
	Variant   string    `json:"variant,omitempty"`
	Size      int64     `json:"virtual_size"`
	Allocated int64     `json:"allocated,omitempty"` // bytes of data extents
	Info      any       `json:"info,omitempty"`      // formats.Info of each image of the chain, newest first
	Map       []Stretch `json:"map,omitempty"`
	Output    string    `json:"output,omitempty"`
	Written   int64     `json:"written,omitempty"` // size of the output file
	Digest    string    `json:"digest,omitempty"`  // "sha256:…" of the guest-visible content, where asked for
}

// FixReport is one fix: why, what changed, what was left and why.
type FixReport struct {
	ID    string   `json:"id"`
	Why   string   `json:"why"`
	State string   `json:"state"` // "changed", "planned", "unchanged", "skipped", "failed"
	Diff  string   `json:"diff,omitempty"`
	Notes []string `json:"notes,omitempty"`
}

// TargetReport is what the new machine looks like.
type TargetReport struct {
	Domain     string   `json:"domain,omitempty"` // path of the libvirt domain XML
	Firmware   string   `json:"firmware,omitempty"`
	SecureBoot bool     `json:"secure_boot,omitempty"`
	Machine    string   `json:"machine,omitempty"`
	CPU        string   `json:"cpu,omitempty"` // least level: "x86-64-v2"
	Bus        string   `json:"bus,omitempty"`
	MACs       []string `json:"macs,omitempty"`
}

// VerdictState is the outcome of one boot.
type VerdictState string

// The outcomes of a boot.
const (
	Booted    VerdictState = "booted"
	Emergency VerdictState = "emergency shell"
	Panic     VerdictState = "panic"
	NoLoader  VerdictState = "no loader"
	Timeout   VerdictState = "timeout"
)

// Verdict is the proof, or the evidence against, of one boot.
type Verdict struct {
	Bus         string       `json:"bus"`
	State       VerdictState `json:"state"`
	Why         string       `json:"why"` // the line that decided
	Seconds     float64      `json:"seconds"`
	FailedUnits []string     `json:"failed_units,omitempty"`
	Interfaces  []Interface  `json:"interfaces,omitempty"`
	Console     string       `json:"console,omitempty"`    // path of the console text
	Screenshot  string       `json:"screenshot,omitempty"` // path of the PNG
}

// Interface is a network interface as the booted guest reported it.
type Interface struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses,omitempty"` // CIDR
}

// Comparison is the outcome of comparing two disks.
type Comparison struct {
	Equal bool `json:"equal"`
	// Offset is the first differing byte, -1 when equal.
	Offset int64  `json:"offset"`
	Detail string `json:"detail,omitempty"`
}

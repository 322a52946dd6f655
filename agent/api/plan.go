// Package api is the contract between the control plane, which decides, and
// the data plane, which moves bytes: the Plan of a run, the Events it gives,
// and the Report it ends with.
//
// A verb of the command line is a Plan with some of the stages; the same Plan
// runs in the h2k process, in the helper VM, and in the rescue image.
package api

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// Version is the version of Plan, Event and Report that this code speaks.
const Version = 1

// Stage is one step of the pipeline. Stages are optional; their order is not.
type Stage string

// The stages, in order.
const (
	Fetch     Stage = "fetch"
	Flatten   Stage = "flatten"
	Inspect   Stage = "inspect"
	Fix       Stage = "fix"
	Undo      Stage = "undo"
	Convert   Stage = "convert"
	Validate  Stage = "validate"
	Info      Stage = "info"
	Map       Stage = "map"
	Structure Stage = "check"
	Digest    Stage = "digest"
	Compare   Stage = "compare"
	Serve     Stage = "serve"
)

// Order lists all stages in the order in which they run.
func Order() []Stage {
	return []Stage{Info, Map, Structure, Digest, Compare, Serve, Fetch, Flatten, Inspect, Fix, Undo, Convert, Validate}
}

// Plan is everything a run needs; nothing is discovered mid-flight. The same
// plan on the same input gives the same output bytes.
type Plan struct {
	Version  int             `json:"version"`
	Name     string          `json:"name"`
	Sources  []Source        `json:"sources"`
	Stages   []Stage         `json:"stages"`
	Machine  Machine         `json:"machine,omitzero"`
	Keys     []Key           `json:"keys,omitempty"` // what opens encrypted volumes, by reference
	Fix      FixOptions      `json:"fix,omitzero"`
	Target   Target          `json:"target,omitzero"`
	Validate ValidateOptions `json:"validate,omitzero"`
	// What the stages of h2k disk are told.
	MapPart   MapOptions    `json:"map,omitzero"`
	CheckHow  CheckOptions  `json:"check,omitzero"`
	DigestHow DigestOptions `json:"digest,omitzero"`
	ServeAt   ServeOptions  `json:"serve,omitzero"`
}

// Has reports whether the plan runs stage s.
func (p *Plan) Has(s Stage) bool { return slices.Contains(p.Stages, s) }

// Source is one disk to read. Path is a file, a block device, or the URI of an
// NBD export. Where it is an OVA, OVF or VMX file, the source is each disk of the
// machine that it describes; the agent puts those in its place before the run
// begins, and what is known of the machine where the plan does not say otherwise.
type Source struct {
	Path   string `json:"path"`
	Format string `json:"format,omitempty"` // "" detects it
	// Outside lets the image name parents and extents in other folders.
	Outside bool `json:"allow_outside,omitempty"`
	// Machine chooses one of several that a file describes, by id or name.
	Machine string `json:"machine,omitempty"`
	// Disk chooses one of the machine's disks, from 1; 0 is all.
	Disk int `json:"disk,omitempty"`
	// Single wants the machine to have one disk, and refuses several.
	Single bool `json:"single,omitempty"`
}

// Remote reports whether the source is an NBD export: nbd://, nbds://,
// nbd+unix:// or nbds+unix:// (doc/uri.md of the NBD project).
func (s Source) Remote() bool {
	scheme, _, ok := strings.Cut(s.Path, "://")
	return ok && slices.Contains([]string{"nbd", "nbds", "nbd+unix", "nbds+unix"}, strings.ToLower(scheme))
}

// Machine is what is known of the source machine beside its disks; it decides
// the domain XML and what fixes pin.
type Machine struct {
	Firmware string       `json:"firmware,omitempty"` // "bios", "uefi", "" takes what inspection finds
	Memory   int64        `json:"memory,omitempty"`   // bytes; 0 takes 2 GiB
	CPUs     int          `json:"cpus,omitempty"`     // 0 takes 2
	NICs     []MachineNIC `json:"nics,omitempty"`
	// SecureBoot is "on" or "off"; "" takes what the source's description says, else off.
	SecureBoot string `json:"secure_boot,omitempty"`
	// BootDisk is which of the sources the machine boots from, from 1; 0 is the first.
	BootDisk int `json:"boot_disk,omitempty"`
}

// MachineNIC is a network interface that the target machine will have.
type MachineNIC struct {
	MAC     string `json:"mac,omitempty"`     // kept from the source; "" lets inspection find it
	Was     string `json:"was,omitempty"`     // the address it had on the source, where MAC is a new one
	Network string `json:"network,omitempty"` // libvirt network; "" is "default"
	// Addresses are IP addresses that it had on the source, by which its name is found.
	Addresses []string `json:"addresses,omitempty"`
}

// FixOptions steer INSPECT and FIX.
type FixOptions struct {
	DryRun    bool     `json:"dry_run,omitempty"`
	InPlace   bool     `json:"in_place,omitempty"`  // write the changes into the source image
	Only      []string `json:"only,omitempty"`      // fix IDs; empty is all
	Skip      []string `json:"skip,omitempty"`      // fix IDs
	Devices   string   `json:"devices,omitempty"`   // "uuid" (default), "partuuid", "label"
	Initramfs string   `json:"initramfs,omitempty"` // "auto" (default), "inject", "regenerate", "none"
	// RemoveTools removes the tools of other hypervisors instead of switching them off.
	RemoveTools bool `json:"remove_tools,omitempty"`
	// AgentPackages are the files of a package of the QEMU guest agent and of those
	// that it depends on, which the guest installs at its first start on KVM.
	AgentPackages []string `json:"agent_packages,omitempty"`
	// AgentContents are what the files hold, for a machine that does not have them.
	AgentContents [][]byte `json:"agent_contents,omitempty"`
	// Canary puts the validation canary into the guest; only ever set for the
	// throw-away overlay of VALIDATE.
	Canary bool `json:"canary,omitempty"`
	// Root chooses one of several roots by device or UUID; "" refuses when there are several.
	Root string `json:"root,omitempty"`
}

// Target is where the result goes.
type Target struct {
	Path     string `json:"path,omitempty"`     // file for one disk, folder for several or a described machine
	Folder   bool   `json:"folder,omitempty"`   // Path is a folder, also for one disk
	Format   string `json:"format,omitempty"`   // "qcow2" (default), "raw", "vmdk", "vhd", "vhdx", "vdi"
	Variant  string `json:"variant,omitempty"`  // vmdk: "monolithicSparse", "streamOptimized"; vhd, vhdx, vdi: "dynamic", "fixed"
	Compress string `json:"compress,omitempty"` // "none" (default), "zlib", "zstd"
	Force    bool   `json:"force,omitempty"`    // replace an output that exists
	Verify   bool   `json:"verify,omitempty"`   // read the output back and compare
	Digest   bool   `json:"digest,omitempty"`   // report the sha256 of what the guest sees; reads every byte of the output
	// Bandwidth is how many bytes of a source are read in a second, at most; 0 is no limit.
	Bandwidth int64 `json:"bandwidth,omitempty"`
	Domain    bool  `json:"domain,omitempty"` // write NAME.xml and NAME.report.* beside it
}

// Home is the path that jobs and reports lie beside: that of the target, or for
// a device a file of that name in the working folder, since nothing but devices
// belongs into /dev.
func (t Target) Home() string {
	if strings.HasPrefix(t.Path, "/dev/") && !strings.HasPrefix(t.Path, "/dev/shm/") {
		return path.Base(t.Path)
	}
	return t.Path
}

// ValidateOptions steer VALIDATE.
type ValidateOptions struct {
	Buses   []string `json:"buses,omitempty"`   // "virtio-blk", "virtio-scsi", "sata"; empty is the first two
	Timeout int      `json:"timeout,omitempty"` // seconds a boot may take; 0 is 600
	// Evidence is the folder for console texts and screenshots; "" puts them
	// beside the output, and keeps none where there is no output.
	Evidence string `json:"evidence,omitempty"`
}

// Check reports the first thing wrong with the plan itself.
func (p *Plan) Check() error {
	if p.Version != Version {
		return fmt.Errorf("plan %q: version %d, this program speaks %d", p.Name, p.Version, Version)
	}
	if len(p.Sources) == 0 {
		return fmt.Errorf("plan %q: no source", p.Name)
	}
	for _, s := range p.Sources {
		if s.Disk < 0 {
			return fmt.Errorf("plan %q: disk %d of %s: disks are counted from 1", p.Name, s.Disk, s.Path)
		}
	}
	last := -1
	for _, s := range p.Stages {
		at := slices.Index(Order(), s)
		if at < 0 {
			return fmt.Errorf("plan %q: unknown stage %q", p.Name, s)
		}
		if at <= last {
			return fmt.Errorf("plan %q: stage %q is out of order", p.Name, s)
		}
		last = at
	}
	if err := checkKeys(p.Keys); err != nil {
		return fmt.Errorf("plan %q: %w", p.Name, err)
	}
	return nil
}

// Agent runs plans: in this process, in the helper VM, or on another machine.
type Agent interface {
	// Run runs the plan and returns its report; the report is there, as far as
	// it got, when err is not nil. job is the job folder, "" for a throw-away one.
	Run(ctx context.Context, plan *Plan, job string, events Sink) (*Report, error)
}

// GuestFacts is what inspection found.
type GuestFacts = guest.Facts

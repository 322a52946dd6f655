package pipeline

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats/ovf"
	"hyper2kvm/image/bundle"
)

// described is a machine whose description the plan has among its sources.
type described struct {
	*bundle.Bundle
	machine string // which of several the plan chose
}

// resolve makes the plan say everything: a source that describes a machine
// becomes its disks, and the machine is what the description says where the plan
// does not. From here on the plan is run as it stands, and kept in the job
// folder; what is resolved already stays as it is.
func (r *run) resolve() error {
	plan := *r.plan
	plan.Sources = nil
	for _, s := range r.plan.Sources {
		if s.Disk == 0 && (s.Format != "" || s.Remote() || !bundle.Is(s.Path)) {
			plan.Sources = append(plan.Sources, s)
			continue
		}
		d, err := r.describe(s)
		if err != nil {
			return err
		}
		disks, err := disksOf(s, d)
		if err != nil {
			return err
		}
		plan.Sources = append(plan.Sources, disks...)
		if err := r.checkFolder(&plan, s); err != nil {
			return err
		}
	}
	if err := r.checkMachines(); err != nil {
		return err
	}
	if len(r.machines) == 1 && isMachines(r.plan) {
		r.takeOver(&plan, r.machines[0])
	}
	r.plan = &plan
	return nil
}

// describe opens the description that a source is, once.
func (r *run) describe(s api.Source) (*described, error) {
	if s.Format != "" {
		return nil, api.Errorf(api.CodeUsage, "open disk", s.Name(), "a format goes with an image, not with a disk of a described machine")
	}
	for _, d := range r.machines {
		if d.Path == s.Path && d.machine == s.Machine {
			return d, nil
		}
	}
	b, err := bundle.Open(s.Path, bundle.Policy{Outside: s.Outside, Machine: s.Machine, TempDir: r.unpackDir()})
	if err != nil {
		return nil, sourceError("open machine", s.Path, err)
	}
	d := &described{b, s.Machine}
	r.machines = append(r.machines, d)
	return d, nil
}

// unpackDir is where compressed disks are unpacked: beside the output, where
// there is one, since that is where room is.
func (r *run) unpackDir() string {
	if !r.plan.Has(api.Convert) {
		return r.cfg.TempDir
	}
	dir := filepath.Dir(filepath.Clean(r.plan.Target.Home()))
	for !isFolder(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

// disksOf gives the sources that a source means.
func disksOf(s api.Source, d *described) ([]api.Source, error) {
	n := len(d.Machine.Disks)
	switch {
	case s.Disk > n:
		return nil, api.Errorf(api.CodeWhichDisk, "open disk", s.Name(), "the machine %q has %d", d.Machine.Name, n)
	case s.Disk > 0:
		return []api.Source{s}, nil
	case s.Single && n > 1:
		var list []string
		for i, disk := range d.Machine.Disks[:min(n, maxNamed)] {
			list = append(list, fmt.Sprintf("%s#%d (%.100s)", s.Path, i+1, fileOf(disk)))
		}
		return nil, api.Errorf(api.CodeWhichDisk, "open disk", s.Path, "the machine %q has %d disks: %s", d.Machine.Name, n, strings.Join(list, ", "))
	}
	var out []api.Source
	for i := range n {
		one := s
		one.Disk = i + 1
		out = append(out, one)
	}
	return out, nil
}

// maxNamed is how many disks an error names.
const maxNamed = 20

func fileOf(d ovf.Disk) string {
	if d.File == nil {
		return d.ID
	}
	return d.File.Name
}

// checkFolder makes the output of a whole machine a folder. What is called like
// an image was meant to be one.
func (r *run) checkFolder(plan *api.Plan, s api.Source) error {
	if s.Disk != 0 || s.Single || !plan.Has(api.Convert) {
		return nil
	}
	out := plan.Target.Path
	if ext := strings.TrimPrefix(filepath.Ext(out), "."); !isFolder(out) && slices.Contains([]string{"qcow2", "img", "raw", "vmdk", "vhd", "vhdx", "vdi"}, ext) {
		return api.Errorf(api.CodeUsage, "write", out, "%s describes a machine, whose disks go into a folder: give one, or name the disk that is meant: %s#1",
			s.Path, s.Path)
	}
	plan.Target.Folder = true
	return nil
}

// isMachines reports whether the plan's sources are those of a machine, and not
// disks that have nothing to do with each other.
func isMachines(p *api.Plan) bool { return !p.Has(api.Compare) }

// checkMachines refuses what the descriptions of machines do not go with.
func (r *run) checkMachines() error {
	switch {
	case len(r.machines) == 0:
		for _, s := range r.plan.Sources {
			if s.Machine != "" {
				return api.Errorf(api.CodeUsage, "choose machine", s.Machine, "%s describes no machines to choose from", s.Path)
			}
		}
	case r.plan.Fix.InPlace, r.plan.CheckHow.Repair, r.plan.CheckHow.Undo:
		return api.Errorf(api.CodeInPlace, "change in place", r.machines[0].Path, "the disks of a described machine are only read")
	case len(r.machines) > 1 && isMachines(r.plan):
		return api.Errorf(api.CodeUsage, "open machine", r.machines[1].Path, "%s describes one already: a plan is about one machine", r.machines[0].Path)
	}
	return nil
}

// takeOver puts what is known of the machine into the plan, below what stands
// there, and into the report.
func (r *run) takeOver(plan *api.Plan, d *described) {
	m, have := d.Machine, &plan.Machine
	r.report.Machine = machineReport(d)
	if have.Firmware == "" {
		have.Firmware = m.Firmware
	}
	if have.CPUs == 0 {
		have.CPUs = m.CPUs
	}
	if have.Memory == 0 && m.Memory != 0 {
		if m.Memory < minMemory || m.Memory > maxMemory {
			r.remark("the description gives the machine %d bytes of memory, which is not taken over", m.Memory)
		} else {
			have.Memory = m.Memory
		}
	}
	if m.SecureBoot {
		r.takeSecureBoot(have)
	}
	// The number is one among the sources: it stays 0 where the boot disk is none.
	if have.BootDisk == 0 {
		have.BootDisk = 1 + slices.IndexFunc(plan.Sources, func(s api.Source) bool {
			return s.Disk > 0 && s.Path == d.Path && m.Disks[s.Disk-1].Boot
		})
	}
	have.NICs = r.mergeNICs(have.NICs, m.NICs)
	if b := d.Bundle; plan.Has(api.Convert) && b.HasManifest() && !plan.Has(api.Fetch) {
		plan.Stages = append(slices.Clone(plan.Stages), api.Fetch)
		slices.SortFunc(plan.Stages, func(a, b api.Stage) int { return slices.Index(api.Order(), a) - slices.Index(api.Order(), b) })
	}
}

// Bounds of a believable machine's memory, in bytes.
const (
	minMemory = 4 << 20
	maxMemory = 64 << 40
)

// takeSecureBoot says aloud what becomes of Secure Boot in the new machine.
func (r *run) takeSecureBoot(have *api.Machine) {
	if have.SecureBoot == "" && have.Firmware != "bios" {
		have.SecureBoot = "on"
	}
	if !r.plan.Target.Domain {
		return
	}
	if have.SecureBoot == "on" {
		r.remark("the machine runs under Secure Boot, and will: the host needs a firmware with enrolled keys for it; --secure-boot off leaves it out")
		if r.plan.Has(api.Validate) {
			r.remark("the boot that is tried for proof is one without Secure Boot")
		}
		return
	}
	r.remark("the machine ran under Secure Boot, and will no more")
}

// mergeNICs puts the described interfaces below those of the plan. Addresses
// that the plan gives are the machine's, in its order; without any it has those
// of the description, each with the network that the plan gives to it, or to the
// only one.
func (r *run) mergeNICs(planned []api.MachineNIC, found []ovf.NIC) []api.MachineNIC {
	given := slices.ContainsFunc(planned, func(n api.MachineNIC) bool { return n.MAC != "" })
	if given && len(planned) < len(found) {
		r.remark("the description has %d network cards, the plan gives the machine %d", len(found), len(planned))
	}
	out := slices.Clone(planned)
	for i, f := range found {
		switch {
		case i < len(out):
		case given:
			return out
		case len(planned) == 1:
			out = append(out, api.MachineNIC{Network: planned[0].Network})
		default:
			out = append(out, api.MachineNIC{})
		}
		has := slices.ContainsFunc(out, func(n api.MachineNIC) bool { return n.MAC == f.MAC || n.Was == f.MAC })
		switch n := &out[i]; {
		case has || f.MAC == "":
		case n.MAC == "":
			n.MAC = f.MAC
		case n.Was == "":
			n.Was = f.MAC
		}
	}
	return out
}

func machineReport(d *described) *api.MachineReport {
	m := d.Machine
	out := &api.MachineReport{
		Path: d.Path, Kind: d.Kind, ID: m.ID, Name: m.Name, Guest: m.Guest, CPUs: m.CPUs, Memory: m.Memory,
		Firmware: m.Firmware, SecureBoot: m.SecureBoot,
	}
	for i, x := range m.Disks {
		one := api.DescribedDisk{Number: i + 1, ID: x.ID, Capacity: x.Capacity, Bus: x.Bus, Controller: x.Controller, Unit: x.Unit, Model: x.Model, Boot: x.Boot}
		if x.File != nil {
			one.File = x.File.Name
		}
		out.Disks = append(out.Disks, one)
	}
	for _, n := range m.NICs {
		out.NICs = append(out.NICs, api.DescribedNIC{MAC: n.MAC, Network: n.Network, Model: n.Model})
	}
	return out
}

// fetch compares the files of a machine with their manifest, before anything
// of them is converted. What lies on this host needs no other fetching.
func (r *run) fetch(ctx context.Context) error {
	for _, d := range r.machines {
		if d.Listed() == 0 {
			continue
		}
		if err := d.Verify(ctx, r.progress(api.Fetch, 0)); err != nil {
			return sourceError("compare with its manifest", d.Path, err)
		}
		signed := ""
		if d.Signed() {
			signed = ", whose signature is right"
		}
		r.notice(api.Fetch, "%s: %d files are those of the manifest%s", d.Path, d.Listed(), signed)
		if m := r.report.Machine; m != nil && m.Manifest != nil {
			m.Manifest.Verified = true
		}
	}
	return nil
}

// remark tells of something that is known before the run begins.
func (r *run) remark(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.report.Warnings, text) {
		r.report.Warnings = append(r.report.Warnings, text)
	}
}

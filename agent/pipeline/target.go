package pipeline

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/domain"
	"hyper2kvm/agent/reporthtml"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/image/publish"
)

// writeDomain writes the libvirt domain of the new machine beside its disks.
func (r *run) writeDomain() error {
	cfg, err := r.domainConfig()
	if err != nil {
		return err
	}
	path := r.beside(".xml")
	xml, err := domain.XML(cfg)
	if err != nil {
		return api.NewError(api.CodeOutput, "describe machine", r.plan.Name, err)
	}
	if err := publish.WriteFile(path, xml, true); err != nil {
		return outputError("write", path, err)
	}
	r.report.Target = &api.TargetReport{
		Domain: path, Firmware: cfg.Firmware, SecureBoot: cfg.SecureBoot, Machine: cfg.Machine, CPU: cfg.CPU, Bus: cfg.Disks[0].Bus, MACs: r.macs(),
	}
	return nil
}

func (r *run) domainConfig() (domain.Config, error) {
	m := r.plan.Machine
	cfg := domain.Config{Name: r.plan.Name, Memory: m.Memory, CPUs: m.CPUs, Firmware: r.firmware(), Machine: "q35"}
	bus := r.fitMachine(&cfg)
	if cfg.SecureBoot = m.SecureBoot == "on" && cfg.Firmware == "uefi"; m.SecureBoot == "on" && !cfg.SecureBoot {
		r.warn(api.Convert, "the machine has no Secure Boot: its firmware is %s", cfg.Firmware)
	}
	for i, out := range r.outputs() {
		path, err := filepath.Abs(out)
		if err != nil {
			return cfg, api.NewError(api.CodeOutput, "find the folder of", out, err)
		}
		cfg.Disks = append(cfg.Disks, domain.Disk{
			Path: path, Format: r.plan.Target.Format, Bus: bus, Sector: r.sources[i].SectorSize(), Block: isDevice(out),
		})
	}
	cfg.Disks[r.bootDisk()].Boot = 1
	cfg.NICs = r.nics()
	cfg.LocalTime = r.report.Guest != nil && r.report.Guest.Clock == "localtime"
	return cfg, nil
}

// publishReport writes the report beside the output, for people and programs.
func (r *run) publishReport() error {
	if !r.plan.Has(api.Convert) || !r.plan.Target.Domain {
		return nil
	}
	r.conclude(nil)
	for _, f := range []struct {
		suffix string
		encode func(*api.Report) ([]byte, error)
	}{
		{".report.json", func(rep *api.Report) ([]byte, error) { return json.MarshalIndent(rep, "", "  ") }},
		{".report.html", func(rep *api.Report) ([]byte, error) {
			var page bytes.Buffer
			err := reporthtml.Write(&page, rep, nil)
			return page.Bytes(), err
		}},
	} {
		path := r.beside(f.suffix)
		data, err := f.encode(r.report)
		if err == nil {
			err = publish.WriteFile(path, data, true)
		}
		if err != nil {
			return outputError("write report to", path, err)
		}
		if !slices.Contains(r.report.Outputs, path) {
			r.report.Outputs = append(r.report.Outputs, path)
		}
	}
	return nil
}

// bootDisk is which of the disks the machine boots from, from 0: the one that the
// plan names, else the first that was found to hold a boot loader.
func (r *run) bootDisk() int {
	if n := r.plan.Machine.BootDisk; n > 0 && n <= len(r.plan.Sources) {
		return n - 1
	}
	if g := r.report.Guest; g != nil && g.BootDisk() < len(r.plan.Sources) {
		return g.BootDisk()
	}
	return 0
}

// nics are the target machine's NICs: those that the guest was found to have,
// else those of the plan. One whose MAC address is not known gets a new one
// from libvirt.
func (r *run) nics() []domain.NIC {
	planned := r.plan.Machine.NICs
	var out []domain.NIC
	if r.report.Guest != nil {
		for _, i := range guest.CardOrder(r.report.Guest.NICs) {
			nic := domain.NIC{MAC: r.report.Guest.NICs[i].MAC, Model: r.report.Guest.Needs.NIC}
			switch {
			case i < len(planned):
				nic.Network = planned[i].Network
			case len(planned) == 1 && planned[0].MAC == "":
				nic.Network = planned[0].Network // it was said of the network alone
			}
			out = append(out, nic)
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, n := range planned {
		out = append(out, domain.NIC{MAC: n.MAC, Network: n.Network})
	}
	return out
}

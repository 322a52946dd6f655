package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hyper2kvm/agent/api"
	"hyper2kvm/remote/plan"
)

// convertOptions are the flags of convert that are no fields of a plan.
type convertOptions struct {
	plan     *api.Plan
	noFix    bool
	validate bool
	planFile string
	job      string
	format   string // of the sources
	nics     nicFlags
}

func (a *app) convertCommand() *cobra.Command {
	o := &convertOptions{plan: &api.Plan{}}
	cmd := &cobra.Command{
		Use:   "convert SRC [SRC...] -o OUT",
		Short: "Repair a guest and convert its disks for KVM",
		Long: "convert reads the disks of a guest, repairs on an overlay what keeps it from booting on KVM,\n" +
			"and writes the result. One disk gives the file OUT, several give files in the folder OUT.\n" +
			"Beside it come NAME.xml for libvirt and NAME.report.json and .html.",
		Example: "  h2k convert web01.vmdk -o web01.qcow2 --validate",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.build(cmd, args)
			if err != nil {
				return err
			}
			return a.run(cmd.Context(), p, o.job, a.showConvert)
		},
	}
	f := cmd.Flags()
	t := &o.plan.Target
	f.StringVarP(&t.Path, "output", "o", "", "`file` to write, or folder for several disks")
	f.StringVar(&t.Format, "format", "qcow2", "format of the output: qcow2, raw, vmdk")
	f.StringVar(&t.Variant, "variant", "", "for vmdk: monolithicSparse or streamOptimized")
	f.StringVar(&t.Compress, "compress", "none", "compression of the output: none, zlib, zstd")
	f.BoolVar(&t.Force, "force", false, "replace an output that exists")
	f.BoolVar(&t.Verify, "verify", false, "read the output back and compare it")
	f.BoolVar(&o.noFix, "no-fix", false, "convert the bytes as they are, repair nothing")
	f.BoolVar(&o.validate, "validate", false, "boot the result, on an overlay, and say whether it came up")
	f.StringVar(&o.planFile, "plan", "", "take the plan from this YAML or TOML `file`; flags override it")
	f.StringVar(&o.job, "job", "", "job `folder` to keep; an unfinished run found there goes on")
	fixFlags(f, &o.plan.Fix)
	f.BoolVar(&o.plan.Fix.DryRun, "dry-run", false, "show what would be repaired, write nothing")
	machineFlags(f, &o.plan.Machine, &o.nics)
	validateFlags(f, &o.plan.Validate)
	f.StringVar(&o.format, "source-format", "", "format of the sources: raw, vmdk, qcow2 (default: what the bytes say)")
	return cmd
}

// fixFlags are the flags that steer repairs.
func fixFlags(f *pflag.FlagSet, o *api.FixOptions) {
	f.StringVar(&o.Devices, "devices", "uuid", "what device names become: uuid, partuuid, label")
	f.StringVar(&o.Initramfs, "initramfs", "auto", "how drivers get into the initramfs: auto, inject, regenerate, none")
	f.StringSliceVar(&o.Only, "fix", nil, "run only these `fixes`, by ID")
	f.StringSliceVar(&o.Skip, "skip", nil, "leave out these `fixes`, by ID")
	f.StringVar(&o.Root, "root", "", "`UUID` of the root file system, where a disk has several")
}

// nicFlags are the NICs as they stand on the command line.
type nicFlags struct {
	macs    []string
	network string
}

func (n nicFlags) apply(m *api.Machine) {
	for _, mac := range n.macs {
		m.NICs = append(m.NICs, api.MachineNIC{MAC: strings.ToLower(mac), Network: n.network})
	}
	if len(n.macs) == 0 && n.network != "" {
		m.NICs = append(m.NICs, api.MachineNIC{Network: n.network})
	}
}

func machineFlags(f *pflag.FlagSet, m *api.Machine, n *nicFlags) {
	f.StringVar(&m.Firmware, "firmware", "", "bios or uefi (default: what the guest has)")
	f.Var((*mebibytes)(&m.Memory), "memory", "memory of the new machine in `MiB` (default 2048)")
	f.IntVar(&m.CPUs, "cpus", 0, "number of CPUs of the new machine (default 2)")
	f.StringSliceVar(&n.macs, "mac", nil, "`MAC` address of each NIC, in the source's order (default: what the guest's configuration says)")
	f.StringVar(&n.network, "network", "", "libvirt `network` of the NICs (default \"default\")")
}

func validateFlags(f *pflag.FlagSet, v *api.ValidateOptions) {
	f.StringSliceVar(&v.Buses, "bus", nil, "`buses` to boot from: virtio-blk, virtio-scsi, sata (default the first two)")
	f.IntVar(&v.Timeout, "timeout", 0, "`seconds` a boot may take (default 600)")
}

// build makes the plan: of the file first, of the flags that were given after it.
func (o *convertOptions) build(cmd *cobra.Command, args []string) (*api.Plan, error) {
	p := o.plan
	if o.planFile != "" {
		fromFile, err := plan.Load(o.planFile)
		if err != nil {
			return nil, api.NewError(api.CodeUsage, "read plan", o.planFile, err)
		}
		override(fromFile, p, cmd.Flags())
		p = fromFile
	}
	for _, src := range args {
		p.Sources = append(p.Sources, api.Source{Path: src, Format: o.format})
	}
	if len(p.Sources) == 0 {
		return nil, usage("give the disk image to convert")
	}
	if p.Target.Path == "" && !p.Fix.DryRun {
		return nil, usage("give the output with -o")
	}
	p.Version = api.Version
	if p.Name == "" {
		p.Name = nameOf(p.Sources[0].Path)
	}
	o.nics.apply(&p.Machine)
	p.Target.Domain = !o.noFix
	p.Stages = o.stages()
	return p, checkWords(p)
}

func (o *convertOptions) stages() []api.Stage {
	var stages []api.Stage
	if !o.noFix {
		stages = append(stages, api.Inspect, api.Fix)
	}
	if o.plan.Fix.DryRun {
		return stages
	}
	stages = append(stages, api.Convert)
	if o.validate {
		stages = append(stages, api.Validate)
	}
	return stages
}

// override puts the flags that the user gave over what the plan file says.
func override(p, flags *api.Plan, set *pflag.FlagSet) {
	for name, apply := range map[string]func(){
		"output":    func() { p.Target.Path = flags.Target.Path },
		"format":    func() { p.Target.Format = flags.Target.Format },
		"variant":   func() { p.Target.Variant = flags.Target.Variant },
		"compress":  func() { p.Target.Compress = flags.Target.Compress },
		"force":     func() { p.Target.Force = flags.Target.Force },
		"verify":    func() { p.Target.Verify = flags.Target.Verify },
		"devices":   func() { p.Fix.Devices = flags.Fix.Devices },
		"initramfs": func() { p.Fix.Initramfs = flags.Fix.Initramfs },
		"fix":       func() { p.Fix.Only = flags.Fix.Only },
		"skip":      func() { p.Fix.Skip = flags.Fix.Skip },
		"root":      func() { p.Fix.Root = flags.Fix.Root },
		"dry-run":   func() { p.Fix.DryRun = flags.Fix.DryRun },
		"firmware":  func() { p.Machine.Firmware = flags.Machine.Firmware },
		"memory":    func() { p.Machine.Memory = flags.Machine.Memory },
		"cpus":      func() { p.Machine.CPUs = flags.Machine.CPUs },
		"bus":       func() { p.Validate.Buses = flags.Validate.Buses },
		"timeout":   func() { p.Validate.Timeout = flags.Validate.Timeout },
	} {
		if set.Changed(name) {
			apply()
		}
	}
}

func (a *app) showConvert(r *api.Report) {
	a.showFixes(r)
	a.showOutputs(r)
	a.showVerdicts(r)
	a.showTime(r)
}

func (a *app) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resume OUT|JOB",
		Short: "Go on with a conversion that was interrupted",
		Args:  exactly(1, "the output, or its job folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.resume(cmd.Context(), args[0])
		},
	}
}

func (a *app) resume(ctx context.Context, name string) error {
	dir, p, err := plan.OfJob(name)
	if err != nil {
		return api.NewError(api.CodeJob, "resume", name, err)
	}
	return a.run(ctx, p, dir, a.showConvert)
}

package cli

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hyper2kvm/agent/api"
	"hyper2kvm/remote/plan"
)

// convertOptions are the flags of convert.
type convertOptions struct {
	plan     *api.Plan // of the flags alone
	noFix    bool
	validate bool
	// materialize writes a chain as one image before anything reads it.
	materialize bool
	planFile    string
	job         string
	source      api.Source // what holds for each source
	nics        nicFlags
	keys        keyFlags
}

func (a *app) convertCommand() *cobra.Command {
	o := &convertOptions{plan: &api.Plan{}}
	cmd := &cobra.Command{
		Use:   "convert SRC [SRC...] -o OUT",
		Short: "Repair a guest and convert its disks for KVM",
		Long: "convert reads the disks of a guest, repairs on an overlay what keeps it from booting on KVM,\n" +
			"and writes the result. One disk gives the file OUT; several, and a described machine, give files in\n" +
			"the folder OUT. Beside it come NAME.xml for libvirt and NAME.report.json and .html.\n\n" +
			machineHelp + "\nThe new machine is what the description says, where no flag and no plan says otherwise.",
		Example: "  h2k convert web01.vmdk -o web01.qcow2 --validate\n" +
			"  h2k convert web01.ova -o web01/\n" +
			"  h2k convert sda.vmdk sdb.vmdk -o web01/ --mac 00:50:56:12:34:56",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.build(cmd.Flags(), args)
			if err != nil {
				return err
			}
			return a.run(cmd.Context(), p, o.job, a.convertView())
		},
	}
	f := cmd.Flags()
	targetFlags(cmd, &o.plan.Target)
	f.BoolVar(&o.noFix, "no-fix", false, "convert the bytes as they are, repair nothing")
	f.BoolVar(&o.validate, "validate", false, "boot the result, on an overlay, and say whether it came up")
	f.BoolVar(&o.materialize, "materialize", false, "write a snapshot chain as one image into the job folder first, and read that")
	f.StringVar(&o.planFile, "plan", "", "take the plan from this YAML or TOML `file`; flags override it")
	f.StringVar(&o.job, "job", "", "job `folder` to keep; an unfinished run found there goes on")
	fixFlags(cmd, &o.plan.Fix)
	o.keys.flags(cmd)
	f.BoolVar(&o.plan.Fix.DryRun, "dry-run", false, "show what would be repaired, write nothing")
	machineFlags(cmd, &o.plan.Machine, &o.nics)
	validateFlags(cmd, &o.plan.Validate)
	sourceFlags(cmd, &o.source)
	return cmd
}

// sourceFlags are the flags of all verbs that read images.
func sourceFlags(cmd *cobra.Command, s *api.Source) {
	choice(cmd, &s.Format, "source-format", "", "format of the sources (default: what the bytes say)")
	cmd.Flags().BoolVar(&s.Outside, "allow-outside", false,
		"let images name parents and extents in other folders; devices and URLs never")
	cmd.Flags().StringVar(&s.Machine, "machine", "", "`name` or id of the machine, where an OVF file describes several")
}

// targetFlags are the flags of what is written.
func targetFlags(cmd *cobra.Command, t *api.Target) {
	f := cmd.Flags()
	f.StringVarP(&t.Path, "output", "o", "", "`file` to write, or folder for several disks")
	choice(cmd, &t.Format, "format", "qcow2", "format of the output")
	choice(cmd, &t.Variant, "variant", "", "kind of VMDK, VHD, VHDX or VDI (default monolithicSparse or dynamic)")
	choice(cmd, &t.Compress, "compress", "none", "compression of the output")
	f.BoolVar(&t.Force, "force", false, "replace an output that exists")
	f.BoolVar(&t.Verify, "verify", false, "read the output back and compare it")
	f.BoolVar(&t.Digest, "digest", false, "report the sha256 of what the guest sees of the output")
	f.Var((*byteRate)(&t.Bandwidth), "bandwidth", "read no more of a source than this `rate`, in bytes a second (80M, 1.5G)")
}

// fixFlags are the flags that steer repairs.
func fixFlags(cmd *cobra.Command, o *api.FixOptions) {
	f := cmd.Flags()
	choice(cmd, &o.Devices, "devices", "uuid", "what device names become")
	choice(cmd, &o.Initramfs, "initramfs", "auto", "how drivers get into the initramfs")
	f.StringSliceVar(&o.Only, "fix", nil, "run only these `fixes`, by ID")
	f.StringSliceVar(&o.Skip, "skip", nil, "leave out these `fixes`, by ID")
	f.BoolVar(&o.RemoveTools, "remove-tools", false, "remove the tools of other hypervisors, with the guest's package manager, instead of switching them off")
	f.StringArrayVar(&o.AgentPackages, "agent-package", nil, "package `file` of the QEMU guest agent (.deb, .rpm, .apk) that the guest installs at its first start on KVM; again for each that it depends on")
	f.StringVar(&o.Root, "root", "", "`UUID` of the root file system, where a disk has several")
}

// nicFlags are the NICs as they stand on the command line.
type nicFlags struct {
	macs    []string
	network string
}

// apply puts what was given over what the machine has.
func (n nicFlags) apply(m *api.Machine) {
	if len(n.macs) > 0 {
		m.NICs = nil
	}
	for _, mac := range n.macs {
		m.NICs = append(m.NICs, api.MachineNIC{MAC: strings.ToLower(mac)})
	}
	if n.network == "" {
		return
	}
	if len(m.NICs) == 0 {
		m.NICs = []api.MachineNIC{{}}
	}
	for i := range m.NICs {
		m.NICs[i].Network = n.network
	}
}

func machineFlags(cmd *cobra.Command, m *api.Machine, n *nicFlags) {
	f := cmd.Flags()
	choice(cmd, &m.Firmware, "firmware", "", "firmware of the new machine (default: what a description says or the guest has)")
	choice(cmd, &m.SecureBoot, "secure-boot", "", "Secure Boot of the new machine (default: what a description says, else off)")
	f.Var((*mebibytes)(&m.Memory), "memory", "memory of the new machine in `MiB` (default: what a description says, else 2048)")
	f.IntVar(&m.CPUs, "cpus", 0, "number of CPUs of the new machine (default: what a description says, else 2)")
	f.StringSliceVar(&n.macs, "mac", nil, "`MAC` address of each NIC, in the source's order (default: what a description or the guest's configuration says)")
	f.StringVar(&n.network, "network", "", "libvirt `network` of the NICs (default \"default\")")
}

func validateFlags(cmd *cobra.Command, v *api.ValidateOptions) {
	f := cmd.Flags()
	f.StringSliceVar(&v.Buses, "bus", nil, "`buses` to boot from: "+listed("bus")+" (default the first two)")
	complete(cmd, "bus")
	f.IntVar(&v.Timeout, "timeout", 0, "`seconds` a boot may take (default 600)")
}

// build makes the plan: of the file first, of the flags that were given after it.
func (o *convertOptions) build(set *pflag.FlagSet, args []string) (*api.Plan, error) {
	p, err := o.base(set)
	if err != nil {
		return nil, err
	}
	if len(args) > 0 {
		p.Sources = nil
	}
	for _, src := range args {
		p.Sources = append(p.Sources, sourceOf(src, o.source))
	}
	if len(p.Sources) == 0 {
		return nil, usage("give the disk image to convert")
	}
	for i := range p.Sources {
		s := &p.Sources[i]
		s.Outside = s.Outside || o.source.Outside
		s.Machine = cmp.Or(o.source.Machine, s.Machine)
	}
	if p.Name == "" {
		p.Name = nameFor(p.Sources[0])
	}
	if err := o.keys.apply(p); err != nil {
		return nil, err
	}
	o.nics.apply(&p.Machine)
	p.Stages = o.stages(p)
	if o.noFix {
		p.Target.Domain = false
	}
	if p.Has(api.Convert) && p.Target.Path == "" {
		return nil, usage("give the output with -o")
	}
	if p.Fix.InPlace || p.Fix.Canary {
		return nil, usage("fix.in_place and fix.canary are not for convert: it never writes to the source")
	}
	return p, checkWords(p)
}

// base is the plan before sources, NICs and stages are settled.
func (o *convertOptions) base(set *pflag.FlagSet) (*api.Plan, error) {
	p := o.plan
	p.Version, p.Target.Domain = api.Version, true
	if o.planFile == "" {
		return p, nil
	}
	defaults := api.Plan{Version: api.Version, Target: api.Target{Format: "qcow2", Compress: "none", Domain: true},
		Fix: api.FixOptions{Devices: "uuid", Initramfs: "auto"}}
	file, err := plan.Load(o.planFile, defaults)
	if err != nil {
		return nil, api.NewError(api.CodeUsage, "read plan", "", err)
	}
	override(file, p, set)
	return file, nil
}

// stages are those of the plan, or the usual ones, less and more what flags say.
func (o *convertOptions) stages(p *api.Plan) []api.Stage {
	stages := p.Stages
	if len(stages) == 0 {
		stages = []api.Stage{api.Inspect, api.Fix, api.Convert}
	}
	drop := map[api.Stage]bool{}
	if o.noFix {
		drop[api.Inspect], drop[api.Fix] = true, true
	}
	if o.validate && !slices.Contains(stages, api.Validate) {
		stages = append(slices.Clone(stages), api.Validate)
	}
	if o.materialize && !slices.Contains(stages, api.Flatten) {
		stages = append(slices.Clone(stages), api.Flatten)
		slices.SortFunc(stages, func(a, b api.Stage) int { return slices.Index(api.Order(), a) - slices.Index(api.Order(), b) })
	}
	if p.Fix.DryRun {
		drop[api.Flatten], drop[api.Convert], drop[api.Validate] = true, true, true
	}
	return slices.DeleteFunc(slices.Clone(stages), func(s api.Stage) bool { return drop[s] })
}

// override puts the flags that the user gave over what the plan file says.
func override(p, flags *api.Plan, set *pflag.FlagSet) {
	for name, apply := range map[string]func(){
		"output":        func() { p.Target.Path = flags.Target.Path },
		"format":        func() { p.Target.Format = flags.Target.Format },
		"variant":       func() { p.Target.Variant = flags.Target.Variant },
		"compress":      func() { p.Target.Compress = flags.Target.Compress },
		"force":         func() { p.Target.Force = flags.Target.Force },
		"verify":        func() { p.Target.Verify = flags.Target.Verify },
		"digest":        func() { p.Target.Digest = flags.Target.Digest },
		"bandwidth":     func() { p.Target.Bandwidth = flags.Target.Bandwidth },
		"devices":       func() { p.Fix.Devices = flags.Fix.Devices },
		"initramfs":     func() { p.Fix.Initramfs = flags.Fix.Initramfs },
		"fix":           func() { p.Fix.Only = flags.Fix.Only },
		"skip":          func() { p.Fix.Skip = flags.Fix.Skip },
		"remove-tools":  func() { p.Fix.RemoveTools = flags.Fix.RemoveTools },
		"agent-package": func() { p.Fix.AgentPackages = flags.Fix.AgentPackages },
		"root":          func() { p.Fix.Root = flags.Fix.Root },
		"dry-run":       func() { p.Fix.DryRun = flags.Fix.DryRun },
		"firmware":      func() { p.Machine.Firmware = flags.Machine.Firmware },
		"secure-boot":   func() { p.Machine.SecureBoot = flags.Machine.SecureBoot },
		"memory":        func() { p.Machine.Memory = flags.Machine.Memory },
		"cpus":          func() { p.Machine.CPUs = flags.Machine.CPUs },
		"bus":           func() { p.Validate.Buses = flags.Validate.Buses },
		"timeout":       func() { p.Validate.Timeout = flags.Validate.Timeout },
	} {
		if set.Changed(name) {
			apply()
		}
	}
}

func (a *app) convertView() view {
	return view{
		done: func(r *api.Report) {
			a.showFixes(r)
			a.showVerdicts(r)
			a.showOutputs(r)
			a.showWarnings(r)
			a.showTime(r)
		},
		failed: a.showFixFailures,
	}
}

func (a *app) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resume [OUT|JOB]",
		Short: "Go on with a run that was interrupted",
		Long: "resume goes on where an interrupted or killed run stopped: finished stages are not done again.\n" +
			"It takes the output of that run or its job folder; with neither, the only one in this folder.",
		Example: "  h2k resume web01.qcow2",
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, " ")
			if len(args) > 1 {
				return usage("give one output or job folder; got %d arguments", len(args))
			}
			dir, p, err := plan.OfJob(name)
			if err != nil {
				return api.NewError(api.CodeJob, "resume", name, err)
			}
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, dir, a.convertView())
		},
	}
}

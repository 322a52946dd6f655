package cli

import (
	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

func (a *app) inspectCommand() *cobra.Command {
	var src api.Source
	var root string
	var keys keyFlags
	cmd := &cobra.Command{
		Use:     "inspect SRC [SRC...]",
		Short:   "Show what is on the disks of a guest, and what keeps it from booting on KVM",
		Long:    "inspect writes nothing. " + machineHelp,
		Example: "  h2k inspect web01.vmdk\n  h2k inspect web01.ova",
		Args:    atLeastOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(args, src, api.Inspect, api.Fix)
			p.Fix = api.FixOptions{DryRun: true, Root: root}
			if err := keys.apply(p); err != nil {
				return err
			}
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", a.inspectView())
		},
	}
	sourceFlags(cmd, &src)
	keys.flags(cmd)
	cmd.Flags().StringVar(&root, "root", "", "`UUID` of the root file system, where a disk has several")
	return cmd
}

// inspectView shows what was found also where the repairs could not be planned.
func (a *app) inspectView() view {
	return view{
		done: func(r *api.Report) {
			a.showMachine(r.Machine)
			a.showGuest(r.Guest)
			a.showFindings(r)
			a.showWarnings(r)
		},
		failed: func(r *api.Report) {
			a.showMachine(r.Machine)
			a.showGuest(r.Guest)
			a.showFixFailures(r)
		},
	}
}

func (a *app) showWarnings(r *api.Report) {
	for _, w := range r.Warnings {
		a.printf("warning: %s\n", safe(w))
	}
}

func (a *app) fixCommand() *cobra.Command {
	var o api.FixOptions
	var src api.Source
	var keys keyFlags
	cmd := &cobra.Command{
		Use:   "fix SRC [SRC...] --dry-run|--in-place",
		Short: "Show, or make in place, the repairs that a guest needs",
		Long: "fix plans the repairs of a guest. --dry-run shows them as a diff. --in-place makes them in the\n" +
			"given image; what was there before is kept inside the guest, and h2k undo brings it back.",
		Example: "  h2k fix web01.vmdk --dry-run\n  h2k fix web01.qcow2 --in-place",
		Args:    atLeastOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.DryRun == o.InPlace {
				return usage("give either --dry-run or --in-place")
			}
			p := newPlan(args, src, api.Inspect, api.Fix)
			p.Fix = o
			if err := keys.apply(p); err != nil {
				return err
			}
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{
				done: func(r *api.Report) {
					a.showFixes(r)
					a.showFixSummary(r)
					a.showWarnings(r)
					a.showTime(r)
				},
				failed: a.showFixFailures,
			})
		},
	}
	f := cmd.Flags()
	fixFlags(cmd, &o)
	keys.flags(cmd)
	f.BoolVar(&o.DryRun, "dry-run", false, "show the repairs, write nothing")
	f.BoolVar(&o.InPlace, "in-place", false, "write the repairs into the given image")
	sourceFlags(cmd, &src)
	return cmd
}

func (a *app) undoCommand() *cobra.Command {
	var src api.Source
	var keys keyFlags
	cmd := &cobra.Command{
		Use:     "undo SRC [SRC...]",
		Short:   "Take back, in the given image, what h2k repaired",
		Example: "  h2k undo web01.qcow2",
		Args:    atLeastOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(args, src, api.Undo)
			p.Fix.InPlace = true
			if err := keys.apply(p); err != nil {
				return err
			}
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{
				done: func(r *api.Report) {
					a.showFixes(r)
					a.showWarnings(r)
					a.printf("undone\n")
				},
				failed: a.showFixFailures,
			})
		},
	}
	sourceFlags(cmd, &src)
	keys.flags(cmd)
	return cmd
}

func (a *app) validateCommand() *cobra.Command {
	var v api.ValidateOptions
	var m api.Machine
	var n nicFlags
	var src api.Source
	var keys keyFlags
	cmd := &cobra.Command{
		Use:   "validate IMAGE [IMAGE...]",
		Short: "Boot a guest on throw-away overlays and say whether it came up",
		Long: "validate boots the guest once on each bus. The image is never written: a canary that reports from\n" +
			"inside the guest is put on an overlay only.",
		Example: "  h2k validate web01.qcow2 --evidence .",
		Args:    atLeastOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(args, src, api.Validate)
			p.Validate, p.Machine = v, m
			n.apply(&p.Machine)
			if err := keys.apply(p); err != nil {
				return err
			}
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: func(r *api.Report) {
				a.showVerdicts(r)
				a.showWarnings(r)
				a.showTime(r)
			}})
		},
	}
	f := cmd.Flags()
	validateFlags(cmd, &v)
	machineFlags(cmd, &m, &n)
	keys.flags(cmd)
	f.StringVar(&v.Evidence, "evidence", "", "`folder` for console texts and screenshots (default: none are kept)")
	sourceFlags(cmd, &src)
	return cmd
}

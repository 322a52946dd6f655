package cli

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

func (a *app) diskCommand() *cobra.Command {
	return group("disk", "Look at, convert and compare disk images; the guest is not touched",
		a.diskInfoCommand(), a.diskConvertCommand(), a.diskCompareCommand())
}

func (a *app) diskInfoCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "info IMAGE",
		Short: "Show what an image and its parents say of themselves",
		Args:  exactly(1, "one disk image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(nameOf(args[0]), args, format, api.Info)
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: a.showDisks})
		},
	}
	sourceFlag(cmd, &format)
	return cmd
}

func (a *app) showDisks(r *api.Report) {
	for _, d := range r.Disks {
		rows := [][]string{
			{"image", d.Source},
			{"format", d.Format + " " + d.Variant},
			{"virtual size", fmt.Sprintf("%s (%d bytes)", size(d.Size), d.Size)},
			{"allocated", fmt.Sprintf("%s (%d bytes)", size(d.Allocated), d.Allocated)},
		}
		a.table(rows)
		// The images of the chain, field by field, as the formats name them.
		if data, err := json.MarshalIndent(d.Info, "", "  "); err == nil && !bytes.Equal(data, []byte("null")) {
			a.printf("%s\n", safeLines(string(data)))
		}
	}
}

func (a *app) diskConvertCommand() *cobra.Command {
	o := &convertOptions{plan: &api.Plan{}, noFix: true}
	cmd := &cobra.Command{
		Use:     "convert IN -o OUT",
		Short:   "Convert the bytes of a disk image to another format",
		Example: "  h2k disk convert web01.vmdk -o web01.raw --format raw",
		Args:    exactly(1, "one disk image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.build(cmd.Flags(), args)
			if err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: func(r *api.Report) { a.showOutputs(r); a.showWarnings(r); a.showTime(r) }})
		},
	}
	targetFlags(cmd, &o.plan.Target)
	sourceFlag(cmd, &o.format)
	return cmd
}

func (a *app) diskCompareCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "Compare what a guest would see on two disk images; exit code 1 when they differ",
		Args:  exactly(2, "two disk images"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(nameOf(args[0]), args, format, api.Compare)
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: a.showComparison})
		},
	}
	sourceFlag(cmd, &format)
	return cmd
}

func (a *app) showComparison(r *api.Report) {
	switch c := r.Compare; {
	case c.Equal && c.Detail == "":
		a.printf("equal\n")
	case c.Equal:
		a.printf("equal: %s\n", safe(c.Detail))
	default:
		a.printf("different: %s\n", safe(c.Detail))
	}
}

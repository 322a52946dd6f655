package cli

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

func (a *app) diskCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "disk", Short: "Look at, convert and compare disk images; the guest is not touched"}
	cmd.AddCommand(a.diskInfoCommand(), a.diskConvertCommand(), a.diskCompareCommand())
	return cmd
}

func (a *app) diskInfoCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "info IMAGE",
		Short: "Show what an image and its parents say of themselves",
		Args:  exactly(1, "one disk image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(nameOf(args[0]), args, format, api.Info)
			return a.run(cmd.Context(), p, "", a.showDisks)
		},
	}
	cmd.Flags().StringVar(&format, "source-format", "", "format of the image (default: what the bytes say)")
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
			p, err := o.build(cmd, args)
			if err != nil {
				return err
			}
			return a.run(cmd.Context(), p, o.job, func(r *api.Report) { a.showOutputs(r); a.showTime(r) })
		},
	}
	f := cmd.Flags()
	t := &o.plan.Target
	f.StringVarP(&t.Path, "output", "o", "", "`file` to write")
	f.StringVar(&t.Format, "format", "qcow2", "format of the output: qcow2, raw, vmdk")
	f.StringVar(&t.Variant, "variant", "", "for vmdk: monolithicSparse or streamOptimized")
	f.StringVar(&t.Compress, "compress", "none", "compression of the output: none, zlib, zstd")
	f.BoolVar(&t.Force, "force", false, "replace an output that exists")
	f.BoolVar(&t.Verify, "verify", false, "read the output back and compare it")
	f.StringVar(&o.format, "source-format", "", "format of the image (default: what the bytes say)")
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
			return a.run(cmd.Context(), p, "", func(r *api.Report) {
				switch c := r.Compare; {
				case c.Equal && c.Detail == "":
					a.printf("equal\n")
				case c.Equal:
					a.printf("equal: %s\n", c.Detail)
				default:
					a.printf("different: %s\n", c.Detail)
				}
			})
		},
	}
	cmd.Flags().StringVar(&format, "source-format", "", "format of both images (default: what the bytes say)")
	return cmd
}

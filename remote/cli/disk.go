package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

func (a *app) diskCommand() *cobra.Command {
	cmd := group("disk", "Look at, convert, compare, check and serve disk images; the guest is not touched",
		a.diskInfoCommand(), a.diskMapCommand(), a.diskConvertCommand(), a.diskCompareCommand(),
		a.diskCheckCommand(), a.diskDigestCommand(), a.diskServeCommand())
	for _, c := range cmd.Commands() {
		c.Long = cmp.Or(c.Long, c.Short+".") + "\n\n" + machineHelp
	}
	return cmd
}

func (a *app) diskInfoCommand() *cobra.Command {
	var src api.Source
	cmd := &cobra.Command{
		Use:     "info IMAGE",
		Short:   "Show what an image and its parents say of themselves",
		Example: "  h2k disk info web01.vmdk\n  h2k disk info web01.ova",
		Args:    exactly(1, "one disk image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(args, src, api.Info)
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: a.showDisks})
		},
	}
	sourceFlags(cmd, &src)
	return cmd
}

func (a *app) showDisks(r *api.Report) {
	a.showMachine(r.Machine)
	for i, d := range r.Disks {
		if i > 0 {
			a.printf("\n")
		}
		a.table([][]string{
			{"image", d.Source},
			{"format", strings.TrimSpace(d.Format + " " + d.Variant)},
			{"virtual size", bytesOf(d.Size)},
			{"allocated", bytesOf(d.Allocated)},
		})
		for _, i := range chainOf(d.Info) {
			a.showImage(i)
		}
	}
	if r.Machine != nil {
		a.printf("\n")
		a.showWarnings(r) // of its description; images show their own
	}
}

// bytesOf is a number of bytes for people and, behind it, in full.
func bytesOf(n int64) string { return fmt.Sprintf("%s (%d bytes)", size(n), n) }

// imageInfo is the JSON form of one image of a chain. A report comes from this
// process or over the wire: that form is what both have in common.
type imageInfo struct {
	Path string `json:"path"`
	Info struct {
		Format      string `json:"format"`
		Variant     string `json:"variant"`
		Size        int64  `json:"virtual_size"`
		ClusterSize int64  `json:"cluster_size"`
		SectorSize  int64  `json:"sector_size"`
		ID          string `json:"id"`
		ContentID   string `json:"content_id"`
		Parent      *struct{ Name, Format, ID, ContentID string }
		Fields      []struct{ Name, Value string }
		Warnings    []string
	} `json:"info"`
	Files []string `json:"files"`
}

// chainOf reads the images of a chain, newest first, from what a report has of them.
func chainOf(info any) []imageInfo {
	data, err := json.Marshal(info)
	if err != nil {
		return nil
	}
	var chain []imageInfo
	if err := json.Unmarshal(data, &chain); err != nil {
		return nil // of an agent that reports less; the disk itself is shown
	}
	return chain
}

// showImage prints every field of an image, as its format names it.
func (a *app) showImage(i imageInfo) {
	in := i.Info
	var text []string
	add := func(name, value string) {
		if value != "" {
			text = append(text, fmt.Sprintf("  %s: %s", safe(name), safe(value)))
		}
	}
	add("format", strings.TrimSpace(in.Format+" "+in.Variant))
	add("virtual size", bytesOf(in.Size))
	if in.ClusterSize > 0 {
		add("cluster size", bytesOf(in.ClusterSize))
	}
	if in.SectorSize > 0 {
		add("sector size", fmt.Sprintf("%d bytes", in.SectorSize))
	}
	add("id", in.ID)
	add("content id", in.ContentID)
	if p := in.Parent; p != nil {
		add("parent", p.Name)
		add("parent format", p.Format)
		add("parent id", p.ID)
		add("parent content id", p.ContentID)
	}
	for _, f := range in.Fields {
		add(f.Name, f.Value)
	}
	for _, f := range i.Files {
		add("data in", short(filepath.Clean(f)))
	}
	for _, w := range in.Warnings {
		add("warning", w)
	}
	a.printf("\n%s\n%s\n", short(filepath.Clean(i.Path)), strings.Join(text, "\n"))
}

func (a *app) diskConvertCommand() *cobra.Command {
	o := &convertOptions{plan: &api.Plan{}, noFix: true, source: api.Source{Single: true}}
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
	sourceFlags(cmd, &o.source)
	return cmd
}

func (a *app) diskCompareCommand() *cobra.Command {
	src := api.Source{Single: true}
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "Compare what a guest would see on two disk images; exit code 1 when they differ",
		Args:  exactly(2, "two disk images"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(args, src, api.Compare)
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: a.showComparison})
		},
	}
	sourceFlags(cmd, &src)
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

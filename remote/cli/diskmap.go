package cli

import (
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

func (a *app) diskMapCommand() *cobra.Command {
	src := api.Source{Single: true}
	var part api.MapOptions
	cmd := &cobra.Command{
		Use:   "map IMAGE",
		Short: "List what is data and what is empty on a disk, and where the data lies",
		Long: "map lists the stretches of a disk from front to back. IMAGE says which image of the chain has it,\n" +
			"0 being the named one; FILE and AT say where data lies as it is, and are empty where it is packed.",
		Example: "  h2k disk map web01.qcow2\n  h2k disk map web01.qcow2 --offset 1G --length 64M --json",
		Args:    exactly(1, "one disk image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(args, src, api.Map)
			p.MapPart = part
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: a.showMap})
		},
	}
	f := cmd.Flags()
	f.Var((*byteSize)(&part.Offset), "offset", "begin at this `byte`")
	f.Var((*byteSize)(&part.Length), "length", "list this many `bytes` (default: to the end)")
	sourceFlags(cmd, &src)
	return cmd
}

func (a *app) showMap(r *api.Report) {
	rows := [][]string{{"OFFSET", "LENGTH", "KIND", "IMAGE", "FILE", "AT"}}
	for _, d := range r.Disks {
		for _, s := range d.Map {
			row := []string{number(s.Offset), number(s.Length), s.Kind, strconv.Itoa(s.Image), "", ""}
			if s.File != "" {
				row[4], row[5] = short(filepath.Clean(s.File)), number(s.At)
			}
			rows = append(rows, row)
		}
	}
	a.table(rows)
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

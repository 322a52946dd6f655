package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

func (a *app) diskCheckCommand() *cobra.Command {
	src := api.Source{Single: true}
	var o api.CheckOptions
	cmd := &cobra.Command{
		Use:   "check IMAGE",
		Short: "Check the structure of an image and its parents; exit code 1 when something is wrong",
		Long: "check looks for space that is lost, or used twice, for references that lead nowhere, and for metadata\n" +
			"that does not fit. --repair mends what is safe to mend in the named image, and keeps what was there in\n" +
			"IMAGE.h2k-repair-N beside it, from which --undo brings it back. A repair that is killed is finished\n" +
			"by the next --repair. An image that is in use is not touched.",
		Example: "  h2k disk check web01.qcow2\n  h2k disk check --repair web01.qcow2",
		Args:    exactly(1, "one disk image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Repair && o.Undo {
				return usage("give either --repair or --undo")
			}
			p := newPlan(args, src, api.Structure)
			p.CheckHow = o
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: func(r *api.Report) { a.showStructure(r); a.showWarnings(r) }})
		},
	}
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "mend in the named image what is safe to mend")
	cmd.Flags().BoolVar(&o.Undo, "undo", false, "take back the last repair of the named image")
	sourceFlags(cmd, &src)
	return cmd
}

func (a *app) showStructure(r *api.Report) {
	for _, c := range r.Checks {
		state := "nothing wrong"
		switch {
		case !c.Checked:
			state = c.Note
		case c.Found > 0:
			state = counted(c.Found, "problem")
		}
		a.printf("%s: %s\n", short(c.Image), safe(state))
		for _, p := range c.Repaired {
			a.printf("  repaired: %s\n", safe(problemText(p)))
		}
		for _, p := range c.Problems {
			a.printf("  %s\n", safe(problemText(p)))
		}
		if n := c.Found - len(c.Problems); n > 0 {
			a.printf("  and %d more\n", n)
		}
		if c.Backup != "" {
			a.printf("  kept: %s, from which --undo brings back what was there\n", short(c.Backup))
		}
	}
}

func problemText(p api.Problem) string {
	text := fmt.Sprintf("%s at byte %d: %s", p.Kind, p.Offset, p.Message)
	switch {
	case p.Harmless && p.Repairable:
		return text + " (harmless; --repair mends it)"
	case p.Harmless:
		return text + " (harmless)"
	case p.Repairable:
		return text + " (--repair mends it)"
	}
	return text
}

// sound reports whether nothing wrong is left.
func sound(checks []api.ImageCheck) bool {
	for _, c := range checks {
		if c.Found > 0 {
			return false
		}
	}
	return true
}

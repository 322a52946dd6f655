package cli

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

// demo is the main job on one of the broken guests that recipes make.
type demo struct {
	recipe  string // name of the guest
	recipes string // folder of the recipes
	guests  string // folder of the guests they made
	out     string
}

func (a *app) demoCommand() *cobra.Command {
	d := demo{recipe: "debian12-bios", out: "demo"}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Repair, convert and boot a small, real, broken guest",
		Long: "demo makes a Debian guest that boots on VMware and not on KVM (from packages, once; it takes root\n" +
			"or sudo), converts it, boots the result, and shows the repairs, the verdict and where the picture\n" +
			"of the booted console is. The recipes are in a checkout of hyper2kvm, in tests/recipes.",
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// No default of a flag: help and man pages are the same everywhere.
			d.recipes = cmp.Or(d.recipes, filepath.Join(a.top(), "tests", "recipes"))
			d.guests = cmp.Or(d.guests, filepath.Join(a.top(), "build", "guests"))
			guest, err := a.demoGuest(cmd.Context(), d)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(d.out, 0o755); err != nil {
				return api.NewError(api.CodeOutput, "make folder", d.out, err)
			}
			p := newPlan([]string{guest}, api.Source{}, api.Inspect, api.Fix, api.Convert, api.Validate)
			p.Name = "demo"
			p.Target = api.Target{Path: filepath.Join(d.out, "guest.qcow2"), Format: "qcow2", Force: true, Domain: true}
			return a.run(cmd.Context(), p, "", a.convertView())
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.recipe, "recipe", d.recipe, "`name` of the guest")
	f.StringVar(&d.recipes, "recipes", "", "`folder` of the recipes (default: of the checkout that h2k was built in)")
	f.StringVar(&d.guests, "guests", "", "`folder` for the guest (default: build/guests there)")
	f.StringVarP(&d.out, "output", "o", d.out, "`folder` for the result")
	return cmd
}

// demoGuest has the recipe make its guest, which is quick when it is there. A
// guest without recipes will do.
func (a *app) demoGuest(ctx context.Context, d demo) (string, error) {
	guest := filepath.Join(d.guests, d.recipe+".vmdk")
	script := filepath.Join(d.recipes, "build.sh")
	if _, err := os.Stat(filepath.Join(d.recipes, d.recipe)); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(guest); err != nil {
			return "", api.Errorf(api.CodeSourceMissing, "find the demo's recipe", filepath.Join(d.recipes, d.recipe), "%w", fs.ErrNotExist)
		}
		return guest, nil
	}
	cmd := exec.CommandContext(ctx, "bash", script, d.recipe, d.guests)
	cmd.Stdout, cmd.Stderr = a.Stderr, a.Stderr
	if a.quiet || a.json {
		cmd.Stdout = nil
	}
	if err := cmd.Run(); err != nil {
		code := api.CodeHost
		if ctx.Err() != nil {
			code = api.CodeInterrupted
		}
		return "", api.NewError(code, "make the demo's guest with", script, err)
	}
	return guest, nil
}

package cli

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"hyper2kvm/agent/api"
)

func (a *app) imageCommand() *cobra.Command {
	var o ImageOptions
	build := &cobra.Command{
		Use:     "build",
		Short:   "Build kernel and initramfs from this machine's packages",
		Example: "  h2k image build -o ~/.cache/hyper2kvm/image",
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Out == "" {
				o.Out = a.ownImage()
			}
			if err := checkWord("profile", o.Profile); err != nil {
				return err
			}
			if err := a.BuildImage(cmd.Context(), o, a.Stderr); err != nil {
				return buildError(cmd.Context(), o.Out, err)
			}
			if a.json {
				return a.printJSON(map[string]string{"image_dir": o.Out})
			}
			a.printf("%s\n", o.Out)
			return nil
		},
	}
	f := build.Flags()
	choice(build, &o.Profile, "profile", "helper", "what goes in")
	f.StringVar(&o.Kernel, "kernel", "", "`folder` of an unpacked kernel package (default: fetched with apt-get)")
	f.StringVarP(&o.Out, "output", "o", "", "`folder` to write (default: where h2k looks for it)")
	return group("image", "Build the image that the helper VM boots", build)
}

// buildError gives an error of the builder its code, unless it has one.
func buildError(ctx context.Context, out string, err error) error {
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	code := api.CodeHelperImage
	if ctx.Err() != nil {
		code = api.CodeInterrupted
	}
	return api.NewError(code, "build image in", out, err)
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look whether this machine has what h2k needs, and say what to install",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := a.CheckHost(cmd.Context(), a.image())
			for _, c := range checks {
				if c.Needed && !c.OK {
					a.exit = exitFailed
				}
			}
			if err := cmd.Context().Err(); err != nil {
				return api.NewError(api.CodeInterrupted, "look at", "this machine", err)
			}
			if a.json {
				return a.printJSON(checks)
			}
			a.showChecks(checks)
			return nil
		},
	}
}

func (a *app) showChecks(checks []api.Check) {
	var rows [][]string
	for _, c := range checks {
		state := "ok"
		switch {
		case !c.OK && c.Needed:
			state = "MISSING"
		case !c.OK:
			state = "could be better"
		}
		rows = append(rows, []string{c.Name, state, c.Detail})
	}
	a.table(rows)
	for _, c := range checks {
		if !c.OK && c.Fix != "" {
			a.printf("\n%s: %s\n  %s\n", c.Name, safe(c.Detail), safe(c.Fix))
		}
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(map[string]any{"version": a.Version, "api": api.Version})
			}
			a.printf("h2k %s (plan version %d)\n", a.Version, api.Version)
			return nil
		},
	}
}

// manCommand writes the man pages; packagers and make man use it.
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a folder",
		Hidden: true,
		Args:   exactly(1, "the folder to write to"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return api.NewError(api.CodeOutput, "make folder", args[0], err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, &doc.GenManHeader{Title: "H2K", Section: "1", Source: "hyper2kvm"}, args[0]); err != nil {
				return api.NewError(api.CodeOutput, "write man pages to", args[0], err)
			}
			return nil
		},
	}
}

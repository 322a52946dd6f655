package cli

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"hyper2kvm/agent/api"
)

func (a *app) imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Build the image that the helper VM boots"}
	var o ImageOptions
	build := &cobra.Command{
		Use:     "build",
		Short:   "Build kernel and initramfs from this machine's packages",
		Example: "  h2k image build -o ~/.cache/hyper2kvm/image",
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Out == "" {
				o.Out = a.imageDirs()[0]
			}
			if o.Profile != "helper" {
				return usage("--profile %q: choose helper", o.Profile)
			}
			if err := a.BuildImage(cmd.Context(), o, a.Stderr); err != nil {
				return api.NewError(api.CodeHelperImage, "build image in", o.Out, err)
			}
			a.printf("%s\n", o.Out)
			return nil
		},
	}
	f := build.Flags()
	f.StringVar(&o.Profile, "profile", "helper", "what goes in: helper")
	f.StringVar(&o.Kernel, "kernel", "", "`folder` of an unpacked kernel package (default: fetched with apt-get)")
	f.StringVarP(&o.Out, "output", "o", "", "`folder` to write (default: where h2k looks for it)")
	cmd.AddCommand(build)
	return cmd
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
			if a.json {
				return a.printJSON(checks)
			}
			a.showChecks(checks)
			return nil
		},
	}
}

func (a *app) showChecks(checks []Check) {
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
			a.printf("%s: %s\n", c.Name, c.Fix)
		}
	}
}

// demoCommand runs the main job on the broken guest of the recipes.
func (a *app) demoCommand() *cobra.Command {
	top := filepath.Dir(filepath.Dir(a.Executable))
	guest, out := filepath.Join(top, "build", "guests", "debian12-bios.vmdk"), "demo"
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Repair, convert and boot a small, real, broken guest",
		Long:  "demo converts the broken Debian 12 guest that `make demo` builds, and boots the result.",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(guest); err != nil {
				return api.Errorf(api.CodeSourceMissing, "find the demo guest", guest, "%w; make demo builds it", err)
			}
			p := newPlan("demo", []string{guest}, "", api.Inspect, api.Fix, api.Convert, api.Validate)
			p.Target = api.Target{Path: filepath.Join(out, "guest.qcow2"), Format: "qcow2", Force: true, Domain: true}
			return a.run(cmd.Context(), p, "", a.showConvert)
		},
	}
	cmd.Flags().StringVar(&guest, "guest", guest, "the broken guest")
	cmd.Flags().StringVarP(&out, "output", "o", out, "`folder` for the result")
	return cmd
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

// Package cli is the command line of h2k: it turns words into a plan, has an
// agent run it, and shows what came of it.
//
// It never touches a byte of a disk: what runs the plan is handed in.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

// Env is the world of one invocation.
type Env struct {
	Args           []string // without the program's name
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Terminal says that Stderr is a terminal: bars and colours are for it only.
	Terminal bool
	Version  string
	// Executable is the path of the running program; its image is found from it.
	Executable string
	// Agent gives the data plane of this machine.
	Agent func(imageDir string) api.Agent
	// BuildImage builds the helper image.
	BuildImage func(ctx context.Context, opt ImageOptions, log io.Writer) error
	// CheckHost looks at this machine.
	CheckHost func(ctx context.Context, imageDir string) []Check
}

// ImageOptions say which image to build.
type ImageOptions struct {
	Profile string // "helper"
	Kernel  string // folder of an unpacked kernel package, "" finds or fetches one
	Out     string
}

// Check is one finding of doctor.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // nothing works without it
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it
}

// app is one invocation with its global flags.
type app struct {
	Env
	json     bool
	quiet    bool
	events   string
	imageDir string
	exit     int
}

// Main runs one command line and returns its exit code.
func Main(ctx context.Context, env Env) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(env.Args)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		return a.fail(err)
	}
	return a.exit
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "h2k",
		Short: "Move virtual machines to KVM so that they boot the first time",
		Long: "h2k converts disks of virtual machines, repairs what keeps the guest from booting on KVM,\n" +
			"and proves by booting it. The source is never written.\n\n" + exitHelp(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.Version,
		Args:          cobra.NoArgs,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%w", err) })
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print one JSON document on stdout, events as JSON lines on stderr")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print no progress")
	f.StringVar(&a.events, "events", "", "write events as JSON lines to this `file`")
	f.StringVar(&a.imageDir, "image-dir", a.Getenv("H2K_IMAGE"), "`folder` of the helper image (environment: H2K_IMAGE)")
	root.AddCommand(
		a.convertCommand(), a.inspectCommand(), a.fixCommand(), a.undoCommand(), a.validateCommand(),
		a.resumeCommand(), a.diskCommand(), a.imageCommand(), a.doctorCommand(), a.demoCommand(),
		a.versionCommand(), a.manCommand(),
	)
	return root
}

// usage makes a usage error.
func usage(format string, args ...any) error {
	return api.Errorf(api.CodeUsage, "read command line", "", format, args...)
}

// exactly checks the number of arguments in words a user understands.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usage("give %s; got %d arguments", what, len(args))
		}
		return nil
	}
}

// atLeastOne checks that there is a source.
func atLeastOne(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage("give the disk image to read")
	}
	return nil
}

// run has the agent run the plan and shows the report.
func (a *app) run(ctx context.Context, plan *api.Plan, job string, show func(*api.Report)) error {
	if err := plan.Check(); err != nil {
		return api.NewError(api.CodeUsage, "check plan", "", err)
	}
	sink, err := a.sink(plan)
	if err != nil {
		return err
	}
	report, err := a.Agent(a.image()).Run(ctx, plan, job, sink)
	err = errors.Join(err, sink.Close())
	if a.json {
		return a.document(report, err)
	}
	if err != nil {
		a.showFixFailures(report)
		return err
	}
	show(report)
	a.exit = exitOf(report)
	return nil
}

// document prints the report as the one JSON document, the error in it.
func (a *app) document(report *api.Report, err error) error {
	if report == nil {
		report = &api.Report{Version: api.Version, Status: api.Failed}
	}
	if err != nil {
		report.Error = api.AsError(err)
		report.Status = report.Error.Code.Status()
	}
	if e := a.printJSON(report); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	a.exit = exitOf(report)
	return nil
}

// exitOf is the exit code of a run without error.
func exitOf(r *api.Report) int {
	if r.Status == api.Unproven {
		return exitUnproven
	}
	if r.Compare != nil && !r.Compare.Equal {
		return exitFailed
	}
	return exitDone
}

// image finds the helper image: where it was said to be, in the checkout or
// installation that the program belongs to, or in the user's cache.
func (a *app) image() string {
	if a.imageDir != "" {
		return a.imageDir
	}
	for _, dir := range a.imageDirs() {
		if _, err := os.Stat(filepath.Join(dir, "initramfs.img")); err == nil {
			return dir
		}
	}
	return a.imageDirs()[0]
}

func (a *app) imageDirs() []string {
	top := filepath.Dir(filepath.Dir(a.Executable))
	return []string{
		filepath.Join(top, "build", "image"),
		filepath.Join(top, "share", "hyper2kvm", "image"),
		filepath.Join(a.Getenv("HOME"), ".cache", "hyper2kvm", "image"),
	}
}

// newPlan is a plan for the given files.
func newPlan(name string, files []string, format string, stages ...api.Stage) *api.Plan {
	p := &api.Plan{Version: api.Version, Name: name, Stages: stages}
	for _, f := range files {
		p.Sources = append(p.Sources, api.Source{Path: f, Format: format})
	}
	return p
}

// nameOf is the name of a machine from the name of its disk.
func nameOf(path string) string {
	base := filepath.Base(path)
	if name := strings.TrimSuffix(base, filepath.Ext(base)); name != "" {
		return name
	}
	return base
}

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.Stdout, format, args...)
}

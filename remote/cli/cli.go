// Package cli is the command line of h2k: it turns words into a plan, has an
// agent run it, and shows what came of it.
//
// It never touches a byte of a disk: what runs the plan is handed in.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
	"hyper2kvm/remote/config"
	"hyper2kvm/remote/plan"
)

// Env is the world of one invocation.
type Env struct {
	Args           []string // without the program's name
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// StdoutTerminal and StderrTerminal say what is read by a person: colours
	// go to the one, progress bars to the other.
	StdoutTerminal, StderrTerminal bool
	Version                        string
	// Executable is the path of the running program; what belongs to it is
	// found from there.
	Executable string
	// Agent gives the data plane of this machine, with the helper image to use.
	Agent func(imageDir string) api.Agent
	// BuildImage builds the helper image.
	BuildImage func(ctx context.Context, opt ImageOptions, log io.Writer) error
	// CheckHost looks at this machine.
	CheckHost func(ctx context.Context, imageDir string) []api.Check
}

// ImageOptions say which image to build.
type ImageOptions struct {
	Profile string // "helper"
	Kernel  string // folder of an unpacked kernel package, "" fetches one
	Out     string
}

// app is one invocation with its global flags.
type app struct {
	Env
	out      *printer
	json     bool
	quiet    bool
	events   string
	imageDir string
	exit     int
	started  bool   // the command line was read; what fails now is no usage error
	printed  bool   // the JSON document
	job      string // the job folder of the run, where it has one that stays
}

// Main runs one command line and returns its exit code.
func Main(ctx context.Context, env Env) int {
	a := &app{Env: env, out: &printer{w: env.Stdout}}
	root := a.root()
	root.SetArgs(env.Args)
	err := root.ExecuteContext(ctx)
	if err == nil && a.out.err != nil {
		err = api.NewError(api.CodeOutput, "print to", "stdout", a.out.err)
	}
	if err != nil {
		return a.fail(err)
	}
	return a.exit
}

// Tree is the tree of commands, for what is derived from it; it runs nothing.
func Tree() *cobra.Command {
	return (&app{Env: Env{Stderr: io.Discard}, out: &printer{w: io.Discard}}).root()
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "h2k",
		Short: "Move virtual machines to KVM so that they boot the first time",
		Long: "h2k converts disks of virtual machines, repairs what keeps the guest from booting on KVM,\n" +
			"and proves by booting it. The source is never written.\n\n" + exitHelp() + "\n\n" +
			"Flags can be given as environment variables too: --image-dir as " + config.Variable("image-dir") + ".\n" +
			"H2K_ACCEL=tcg (or kvm) forces the accelerator of virtual machines.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.Version,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Environment(cmd.Flags(), a.Getenv); err != nil {
				return usage("%w", err)
			}
			a.started = true
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print one JSON document on stdout, events as JSON lines on stderr")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print no progress")
	f.StringVar(&a.events, "events", "", "write events as JSON lines to this `file`")
	f.StringVar(&a.imageDir, "image-dir", "", "`folder` of the helper image (default: build/image of the checkout, else in ~/.cache/hyper2kvm)")
	root.AddCommand(
		a.convertCommand(), a.inspectCommand(), a.fixCommand(), a.undoCommand(), a.validateCommand(),
		a.resumeCommand(), a.diskCommand(), a.imageCommand(), a.doctorCommand(), a.demoCommand(),
		a.versionCommand(), a.manCommand(),
	)
	root.SetOut(a.out) // before the completion command, which keeps it
	root.SetErr(a.Stderr)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.RunE = onlyHolds(c)
		}
	}
	return root
}

// helpCommand is cobra's, but asking for what is not there is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usage("%w", err)
			}
			if len(rest) > 0 {
				return unknownCommand(found, rest[0])
			}
			return found.Help()
		},
	}
}

// group makes a command that only holds others.
func group(name, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short}
	cmd.AddCommand(commands...)
	cmd.RunE = onlyHolds(cmd)
	return cmd
}

// onlyHolds runs a command that does nothing itself: it says what it holds.
func onlyHolds(cmd *cobra.Command) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return usage("%s takes one of: %s", cmd.CommandPath(), strings.Join(held(cmd), ", "))
	}
}

// held are the names of what a command holds.
func held(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return names
}

func unknownCommand(cmd *cobra.Command, name string) error {
	return usage("unknown command %q for %s; nearest is %q", name, cmd.CommandPath(), plan.Nearest(name, held(cmd)))
}

// flagError is a flag that a command does not have. Where the command itself
// is mistyped, its flags are strange only to what holds it.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return usage("%w", err)
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

// view shows a report: of a run that ended well, and as far as one got that
// did not.
type view struct {
	done, failed func(*api.Report)
}

// run has the agent run the plan and shows the report.
func (a *app) run(ctx context.Context, p *api.Plan, job string, v view) error {
	if err := p.Check(); err != nil {
		return api.NewError(api.CodeUsage, "check plan", "", err)
	}
	a.job = job
	if home := plan.Home(p); home != "" {
		if err := absolute(p); err != nil {
			return err
		}
		if job == "" {
			a.job = plan.Home(p) + plan.JobSuffix
		}
	}
	sink, err := a.sink(p)
	if err != nil {
		return err
	}
	report, err := a.Agent(a.image()).Run(ctx, p, job, sink)
	err = errors.Join(err, sink.Close())
	if err != nil && ctx.Err() != nil && api.AsError(err).Code != api.CodeInterrupted {
		err = api.Errorf(api.CodeInterrupted, "run", p.Name, "%w (%w)", context.Cause(ctx), err)
	}
	if a.json {
		return a.document(report, err)
	}
	if err != nil {
		if report != nil && v.failed != nil {
			v.failed(report)
		}
		return err
	}
	v.done(report)
	a.exit = exitOf(report)
	return nil
}

// absolute makes the paths of a plan that outlives this process, in its job
// folder, mean the same in any working folder.
func absolute(p *api.Plan) error {
	paths := []*string{&p.Target.Path, &p.Validate.Evidence}
	for i := range p.Fix.AgentPackages {
		paths = append(paths, &p.Fix.AgentPackages[i])
	}
	for i := range p.Sources {
		if s := &p.Sources[i]; s.Remote() {
			s.Path = absoluteURI(s.Path)
		} else {
			paths = append(paths, &s.Path)
		}
	}
	for _, path := range paths {
		if *path == "" {
			continue
		}
		full, err := filepath.Abs(*path)
		if err != nil {
			return api.NewError(api.CodeHost, "find the folder of", *path, err)
		}
		*path = full
	}
	return absoluteKeys(p.Keys)
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
	a.printed = true
	if e := a.printJSON(report); e != nil {
		return errors.Join(err, e)
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
	if r.Compare != nil && !r.Compare.Equal || r.Verified != nil && !r.Verified.Equal || !sound(r.Checks) {
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
	dirs := []string{a.ownImage(), filepath.Join(a.top(), "share", "hyper2kvm", "image")}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "initramfs.img")); err == nil {
			return dir
		}
	}
	return dirs[0]
}

// ownImage is the folder that an image of the user's own goes to.
func (a *app) ownImage() string {
	if a.inCheckout() {
		return filepath.Join(a.top(), "build", "image")
	}
	cache := a.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(a.Getenv("HOME"), ".cache")
	}
	return filepath.Join(cache, "hyper2kvm", "image")
}

// top is the folder that the program's bin folder lies in.
func (a *app) top() string { return filepath.Dir(filepath.Dir(a.Executable)) }

// inCheckout says that the program was built where its sources are.
func (a *app) inCheckout() bool {
	_, err := os.Stat(filepath.Join(a.top(), "remote", "cmd", "h2k", "main.go"))
	return err == nil
}

// newPlan is a plan for the given files; src says what holds for each.
func newPlan(files []string, src api.Source, stages ...api.Stage) *api.Plan {
	p := &api.Plan{Version: api.Version, Stages: stages}
	for _, f := range files {
		p.Sources = append(p.Sources, sourceOf(f, src))
	}
	p.Name = nameFor(p.Sources[0])
	return p
}

// nameOf is the name of a machine from the name of its disk.
func nameOf(path string) string {
	if (api.Source{Path: path}).Remote() {
		path = nameOfURI(path)
	}
	base := filepath.Base(path)
	if name := strings.TrimSuffix(base, filepath.Ext(base)); name != "" {
		return name
	}
	return base
}

// wantsJSON also knows where the command line could not be read.
func (a *app) wantsJSON() bool {
	return a.json || slices.Contains(a.Args, "--json")
}

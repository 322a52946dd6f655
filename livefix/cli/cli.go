// Package cli is the command line of h2k-livefix: it repairs running guests
// over SSH before they move.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/api/exit"
	"hyper2kvm/livefix/sshguest"
)

// Env is the world of one invocation.
type Env struct {
	Args           []string // without the program's name
	Stdout, Stderr io.Writer
	StdoutTerminal bool
	Getenv         func(string) string
	Home, User     string
	// Ask asks the user; nil where there is no terminal.
	Ask     func(question string, secret bool) (string, error)
	Version string
}

// app is one invocation with its flags.
type app struct {
	Env
	options
	exit    int
	started bool // the command line was read; what fails now is no usage error
	printed bool // the JSON document
	mu      sync.Mutex
}

// options are the flags.
type options struct {
	target       sshguest.Target
	config       string
	sudoPassword string // reference: env:NAME or file:PATH
	passwordFile string
	fix          api.FixOptions
	undo, yes    bool
	json, quiet  bool
	hosts        string
	parallel     int
}

// Main runs one command line and returns its exit code.
func Main(ctx context.Context, env Env) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(env.Args)
	if err := root.ExecuteContext(ctx); err != nil {
		return a.fail(err)
	}
	return a.exit
}

const long = `h2k-livefix repairs a running Linux guest over SSH, before it moves: what KVM needs is added, and the
guest still boots where it is. It logs in as ssh does: with ~/.ssh/config, the agent, keys, known_hosts,
jump hosts and passwords; as root, or as a user whom sudo makes root.

It shows every change as a diff and asks. What was there before is kept inside the guest, and --undo
brings it back. A connection that breaks midway leaves a guest that the same command completes.

Exit codes: 0 done; 1 failed; 2 usage; 3 refused, the guest is unsafe to touch; 130 interrupted.
With --hosts: 0 when every guest is done, 1 when one failed, 3 when some were only refused.`

const examples = `  h2k-livefix root@web01 --dry-run
  h2k-livefix admin@web01 --sudo-password-file ~/.web01
  h2k-livefix web01 --undo
  h2k-livefix --hosts guests.yaml --parallel 4 --yes`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "h2k-livefix [user@]guest",
		Short:         "Repair a running Linux guest over SSH, before it moves to KVM",
		Long:          long,
		Example:       examples,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.Version,
		Args:          func(_ *cobra.Command, args []string) error { return a.checkArgs(args) },
		RunE:          func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), args) },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%w", err) })
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	a.flags(root)
	root.AddCommand(manCommand())
	root.InitDefaultCompletionCmd()
	return root
}

func (a *app) flags(root *cobra.Command) {
	f := root.Flags()
	f.StringArrayVarP(&a.target.Identities, "identity", "i", nil, "private key `file` to log in with, before those of the configuration")
	f.StringVar(&a.target.KnownHosts, "known-hosts", "", "`file` of known host keys, in place of the configured ones")
	f.IntVarP(&a.target.Port, "port", "p", 0, "port of the SSH server (default: as configured, else 22)")
	f.StringVarP(&a.config, "config", "F", "", "SSH configuration `file`, in place of ~/.ssh/config and /etc/ssh/ssh_config; none reads no file")
	f.BoolVar(&a.target.AcceptNew, "accept-new", false, "write the key of a host that is not known yet; a changed key is refused all the same")
	f.StringVar(&a.sudoPassword, "sudo-password", "", "where sudo's password is: env:NAME or file:PATH (default: ask)")
	f.StringVar(&a.passwordFile, "sudo-password-file", "", "`file` whose first line is sudo's password")
	f.BoolVar(&a.fix.DryRun, "dry-run", false, "show the changes, write nothing")
	f.BoolVar(&a.undo, "undo", false, "take back what earlier runs changed")
	f.BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	f.StringSliceVar(&a.fix.Only, "fix", nil, "only these fixes, by `name`")
	f.StringSliceVar(&a.fix.Skip, "skip", nil, "not these fixes, by `name`")
	choice(root, &a.fix.Devices, "devices", "what a device name becomes: uuid (default), partuuid, label", "uuid", "partuuid", "label")
	choice(root, &a.fix.Initramfs, "initramfs", "how drivers get into it: regenerate (default: the guest's own tool), inject, auto, none",
		"regenerate", "inject", "auto", "none")
	f.StringVar(&a.hosts, "hosts", "", "YAML `file` that lists guests")
	f.IntVar(&a.parallel, "parallel", 1, "how many guests of --hosts are worked on at once")
	f.BoolVar(&a.json, "json", false, "print one JSON document on stdout")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print no progress")
}

// choice declares a flag that takes one of a few words.
func choice(cmd *cobra.Command, p *string, name, help string, words ...string) {
	cmd.Flags().Var(&word{p, words}, name, help)
	// It fails for a flag that is not declared, which every start would show.
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// word is a flag that takes one of a few.
type word struct {
	p     *string
	words []string
}

// String is what was given.
func (w *word) String() string { return *w.p }

// Set takes one of the words.
func (w *word) Set(s string) error {
	if !slices.Contains(w.words, s) {
		return fmt.Errorf("choose one of %s", strings.Join(w.words, ", "))
	}
	*w.p = s
	return nil
}

// Type names the value in help.
func (*word) Type() string { return "string" }

// usage makes a usage error.
func usage(format string, args ...any) error {
	return api.Errorf(api.CodeUsage, "read command line", "", format, args...)
}

func (a *app) checkArgs(args []string) error {
	switch {
	case a.hosts == "" && len(args) != 1:
		return usage("give the guest to repair as [user@]guest, or a list with --hosts; got %d arguments", len(args))
	case a.hosts != "" && len(args) > 0:
		return usage("give either a guest or --hosts")
	case a.fix.DryRun && a.undo:
		return usage("an undo has no dry run")
	case a.parallel < 1:
		return usage("--parallel %d: give a number of guests", a.parallel)
	case a.target.Port < 0 || a.target.Port > 65535:
		return usage("--port %d is none", a.target.Port)
	case a.sudoPassword != "" && a.passwordFile != "":
		return usage("give either --sudo-password or --sudo-password-file")
	case (a.json || a.Ask == nil) && !a.yes && !a.fix.DryRun && !a.undo:
		return usage("there is nobody to ask: give --dry-run to see the changes, --yes to make them")
	}
	return nil
}

// secret reads a secret by reference: it never stands on a command line.
func (a *app) secret(ref string) (string, error) {
	kind, name, _ := strings.Cut(ref, ":")
	switch {
	case ref == "":
		return "", nil
	case kind == "env" && name != "":
		if v := a.Getenv(name); v != "" {
			return v, nil
		}
		return "", usage("sudo's password: the environment variable %s is not set", name)
	case kind == "file" && name != "":
		if rest, ok := strings.CutPrefix(name, "~/"); ok {
			name = a.Home + "/" + rest
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return "", usage("sudo's password: %w", err)
		}
		first, _, _ := strings.Cut(string(data), "\n")
		if first = strings.TrimSuffix(first, "\r"); first == "" {
			return "", usage("sudo's password: the first line of %s is empty", name)
		}
		return first, nil
	}
	return "", usage("sudo's password is named by env:NAME or file:PATH, so that it stands on no command line")
}

func (a *app) run(ctx context.Context, args []string) error {
	a.started = true
	if a.passwordFile != "" {
		a.sudoPassword = "file:" + a.passwordFile
	}
	if a.hosts != "" {
		return a.runHosts(ctx)
	}
	t, err := sshguest.ParseTarget(args[0])
	if err != nil {
		return usage("%w", err)
	}
	h := host{name: args[0], target: a.target, fix: a.fix, sudo: a.sudoPassword}
	h.target.Host, h.target.User = t.Host, t.User
	if h.target.Port == 0 {
		h.target.Port = t.Port
	}
	return a.runOne(ctx, h)
}

// manCommand writes the man pages; packagers and make man use it.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a folder",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return api.NewError(api.CodeOutput, "make folder", args[0], err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, &doc.GenManHeader{Title: "H2K-LIVEFIX", Section: "1", Source: "hyper2kvm"}, args[0]); err != nil {
				return api.NewError(api.CodeOutput, "write man pages to", args[0], err)
			}
			return nil
		},
	}
}

// exitOf is the exit code of a report.
func exitOf(r *api.Report) int {
	if r.Error == nil {
		return exit.Done
	}
	return exit.Of(r.Error.Code)
}

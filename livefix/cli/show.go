package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/api/exit"
	"hyper2kvm/agent/api/plaintext"
)

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return api.NewError(api.CodeOutput, "print to", "stdout", err)
	}
	return nil
}

// colours are for people only, and not for those who said so (no-color.org).
func (a *app) colours() bool { return a.StdoutTerminal && a.Getenv("NO_COLOR") == "" }

// showPlan prints the diff of each fix, and what was left and why.
func (a *app) showPlan(out io.Writer, r *api.Report) {
	for _, f := range r.Fixes {
		if f.State == "changed" || f.State == "planned" {
			fmt.Fprintf(out, "\n%s (%s)\n%s\n", f.ID, f.State, plaintext.Indent(plaintext.Safe(f.Why)))
			plaintext.Diff(out, f.Diff, a.colours())
		}
		if f.State == "skipped" {
			continue // its note says that it does not apply
		}
		for _, n := range f.Notes {
			fmt.Fprintf(out, "  note, %s: %s\n", f.ID, plaintext.Safe(n))
		}
	}
}

// show prints what came of a run.
func (a *app) show(out io.Writer, r *api.Report, err error) {
	shown := !a.yes && !a.fix.DryRun // by the question
	if a.fix.DryRun || a.yes || a.undo || !shown {
		a.showPlan(out, r)
	}
	var rows [][]string
	for _, f := range r.Fixes {
		rows = append(rows, []string{f.ID, f.State, f.Why})
	}
	if len(rows) > 0 {
		fmt.Fprintln(out)
		plaintext.Table(out, rows)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(out, "warning: %s\n", plaintext.Safe(w))
	}
	if err != nil {
		return
	}
	fmt.Fprintf(out, "\n%s\n", a.verdict(r))
	var parts []string
	for _, s := range r.Stages {
		parts = append(parts, fmt.Sprintf("%s %.1f s", s.Stage, s.Seconds))
	}
	fmt.Fprintf(out, "time: %s\n", strings.Join(parts, ", "))
}

// verdict says in one line how a run ended.
func (a *app) verdict(r *api.Report) string {
	switch n := count(r, "changed"); {
	case a.undo:
		return "undone"
	case a.fix.DryRun && count(r, "planned") > 0:
		return fmt.Sprintf("%d fixes would change something; nothing was written", count(r, "planned"))
	case n > 0:
		return fmt.Sprintf("%d fixes changed something; h2k-livefix --undo brings back what was there before", n)
	}
	return "nothing to repair"
}

func count(r *api.Report, state string) int {
	n := 0
	for _, f := range r.Fixes {
		if f.State == state {
			n++
		}
	}
	return n
}

// next is the next step after an error of that code.
func next(code api.Code) string {
	switch code {
	case api.CodeUsage:
		return "h2k-livefix --help shows what it takes"
	case api.CodeInterrupted:
		return "run the same command again"
	case api.CodeSSHConfig:
		return "correct the SSH configuration, or name another file with -F (-F none reads none)"
	case api.CodeConnect:
		return "check name and port, and that the guest's SSH server runs: ssh -v shows the same way"
	case api.CodeHostKey:
		return "compare the fingerprint on the guest's console before you trust it"
	case api.CodeLogin:
		return "check that ssh with the same user and key logs in; --identity names another key"
	case api.CodePrivilege:
		return "log in as root, or as a user whom sudo lets run everything; --sudo-password-file gives sudo's password"
	case api.CodeGuestFiles:
		return "install the SFTP server of OpenSSH in the guest"
	case api.CodeLost:
		return "run the same command again: it takes back what was cut short, and completes it"
	case api.CodeBusy:
		return "wait for the other session to end, then run the command again"
	case api.CodeNoRoot:
		return "h2k-livefix repairs installed Linux guests; move the machine itself as it is with h2k convert --no-fix"
	case api.CodeGuestSpace:
		return "free space in the guest (old kernels in /boot, logs, caches) and run the command again"
	case api.CodeGuestReadOnly:
		return "find out why it is read-only (dmesg, mount -o remount,rw) and run the command again"
	case api.CodeGuestImmutable:
		return "chattr -i FILE in the guest lets it be changed; run the command again then"
	case api.CodeFix:
		return "the guest is as it was; --skip FIX leaves the named fix out, --initramfs inject needs no tool of the guest"
	case api.CodeUndo:
		return "nothing was written; files that changed since the repair are not taken back"
	case api.CodeSourceRead, api.CodeOutput:
		return "look at what the error names"
	}
	return "this is a defect in h2k-livefix: please report it with the command and its output"
}

// fail prints the error and returns its exit code.
func (a *app) fail(err error) int {
	e := api.AsError(err)
	if e.Code == api.CodeInternal && !a.started {
		// cobra has no type for what it finds wrong with a command line, but
		// nothing else can fail before a command starts.
		e = api.NewError(api.CodeUsage, "read command line", "", err)
	}
	code := exit.Of(e.Code)
	for _, arg := range a.Args {
		a.json = a.json || arg == "--json"
	}
	if a.json {
		if !a.printed {
			// Where stdout is what failed, stderr still has the error.
			_ = printJSON(a.Stdout, &api.Report{Version: api.Version, Status: e.Code.Status(), Error: e})
		}
		line, _ := json.Marshal(struct {
			*api.Error
			Next string `json:"next"`
			Exit int    `json:"exit"`
		}{e, next(e.Code), code}) // strings and numbers always marshal
		fmt.Fprintf(a.Stderr, "%s\n", line)
		return code
	}
	printError(a.Stderr, e)
	fmt.Fprintf(a.Stderr, "code: %s\nnext: %s\n", e.Code, next(e.Code))
	return code
}

func printError(out io.Writer, e *api.Error) {
	object := plaintext.Safe(e.Object)
	if object != "" {
		object = " " + object
	}
	fmt.Fprintf(out, "error: %s%s: %s\n", plaintext.Safe(e.Action), object, plaintext.Safe(e.Reason))
	if e.Detail != "" {
		fmt.Fprintf(out, "%s\n", plaintext.Indent(plaintext.SafeLines(e.Detail)))
	}
}

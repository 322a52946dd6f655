package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/api/plaintext"
	"hyper2kvm/livefix/repair"
	"hyper2kvm/livefix/sshguest"
)

// host is one guest and what to do there.
type host struct {
	name   string
	target sshguest.Target
	fix    api.FixOptions
	sudo   string // reference of sudo's password
}

// outcome is what became of one guest.
type outcome struct {
	Host    string      `json:"host"`
	Seconds float64     `json:"seconds"`
	Report  *api.Report `json:"report"`
}

// runOne repairs the guest of the command line.
func (a *app) runOne(ctx context.Context, h host) error {
	o, err := a.repair(ctx, h, a.Stdout)
	a.exit = exitOf(o.Report)
	if a.json {
		a.printed = true
		if e := printJSON(a.Stdout, o.Report); e != nil {
			return errors.Join(err, e)
		}
	}
	return err
}

// repair repairs one guest and prints on out what a person reads.
func (a *app) repair(ctx context.Context, h host, out io.Writer) (outcome, error) {
	start := time.Now()
	report, err := a.session(ctx, h, out)
	if report == nil {
		report = &api.Report{Version: api.Version, Name: h.name}
	}
	if err != nil {
		report.Error = api.AsError(err)
		report.Status = report.Error.Code.Status()
	}
	if a.json {
		out = io.Discard
	}
	a.show(out, report, err)
	return outcome{h.name, time.Since(start).Seconds(), report}, err
}

func (a *app) session(ctx context.Context, h host, out io.Writer) (*api.Report, error) {
	password, err := a.secret(h.sudo)
	if err != nil {
		return nil, err
	}
	h.target.SudoPassword = password
	notice := func(format string, args ...any) { a.notice(h, format, args...) }
	local := sshguest.Local{
		Home: a.Home, User: a.User, ConfigFile: a.config, AgentAddr: a.Getenv("SSH_AUTH_SOCK"), Warn: notice,
	}
	if a.Ask != nil {
		local.Ask = a.ask
	}
	start := time.Now()
	live, err := sshguest.Open(ctx, h.target, local)
	if err != nil {
		return nil, err
	}
	connected := time.Since(start)
	notice("logged in as %s", live.Who())
	o := repair.Options{Fix: h.fix, Undo: a.undo, Notice: notice}
	if !a.yes {
		o.Confirm = func(r *api.Report) (bool, error) { return a.confirm(h, r, out) }
	}
	report, err := repair.Run(ctx, live, h.name, o)
	report.Stages = append([]api.StageTime{{Stage: "connect", Seconds: connected.Seconds()}}, report.Stages...)
	if e := live.Close(); e != nil && err == nil {
		report.Warnings = append(report.Warnings, fmt.Sprintf("log out: %v", e))
	}
	return report, err
}

// ask keeps several guests from asking at once.
func (a *app) ask(question string, secret bool) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Ask(question, secret)
}

// confirm shows the plan and asks.
func (a *app) confirm(h host, r *api.Report, out io.Writer) (bool, error) {
	if buffered, ok := out.(*bytes.Buffer); ok {
		a.mu.Lock()
		a.showPlan(buffered, r)
		_, err := buffered.WriteTo(a.Stdout)
		a.mu.Unlock()
		if err != nil {
			return false, err
		}
	} else {
		a.showPlan(out, r)
	}
	answer, err := a.ask(fmt.Sprintf("\nMake these changes on %s? [y/N] ", h.name), false)
	if err != nil {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

func (a *app) notice(h host, format string, args ...any) {
	if a.quiet || a.json {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintf(a.Stderr, "%s: %s\n", plaintext.Safe(h.name), plaintext.Safe(fmt.Sprintf(format, args...)))
}

package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"
	"golang.org/x/sync/errgroup"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/api/exit"
	"hyper2kvm/agent/api/plaintext"
	"hyper2kvm/livefix/sshguest"
)

// entry is one guest of a hosts file. What it does not say, the flags say.
type entry struct {
	Host         string   `yaml:"host"` // [user@]name[:port]
	User         string   `yaml:"user"`
	Port         int      `yaml:"port"`
	Identity     string   `yaml:"identity"`
	KnownHosts   string   `yaml:"known_hosts"`
	AcceptNew    *bool    `yaml:"accept_new"`
	SudoPassword string   `yaml:"sudo_password"` // env:NAME or file:PATH
	Fix          []string `yaml:"fix"`
	Skip         []string `yaml:"skip"`
	Devices      string   `yaml:"devices"`
	Initramfs    string   `yaml:"initramfs"`
}

// readHosts reads the guests of a hosts file.
func (a *app) readHosts(name string) ([]host, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, api.NewError(api.CodeUsage, "read list of guests", name, err)
	}
	list, err := parseHosts(data)
	if err != nil {
		return nil, api.NewError(api.CodeUsage, "read list of guests", name, err)
	}
	var out []host
	for _, e := range list {
		h, err := a.hostOf(e)
		if err != nil {
			return nil, api.NewError(api.CodeUsage, "read list of guests", name, err)
		}
		if slices.ContainsFunc(out, func(o host) bool { return o.name == h.name }) {
			return nil, api.Errorf(api.CodeUsage, "read list of guests", name, "%s is in it twice", h.name)
		}
		out = append(out, h)
	}
	return out, nil
}

// parseHosts reads the YAML. A key that is not known is an error with its line.
func parseHosts(data []byte) ([]entry, error) {
	var doc struct {
		Hosts []yaml.Node `yaml:"hosts"`
	}
	if err := strict(data, &doc); err != nil {
		return nil, err
	}
	var out []entry
	for i := range doc.Hosts {
		n := &doc.Hosts[i]
		var e entry
		if n.Kind == yaml.ScalarNode {
			e.Host = n.Value
		} else if err := e.read(n); err != nil {
			return nil, err
		}
		if e.Host == "" {
			return nil, fmt.Errorf("line %d: it names no host", n.Line)
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, errors.New("it lists no guests: hosts: [root@web01, …]")
	}
	return out, nil
}

// read reads one guest's keys.
func (e *entry) read(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: a guest is a name, or keys and values", n.Line)
	}
	known := []string{"host", "user", "port", "identity", "known_hosts", "accept_new", "sudo_password", "fix", "skip", "devices", "initramfs"}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := n.Content[i]; !slices.Contains(known, key.Value) {
			return fmt.Errorf("line %d: unknown key %q; known: %s", key.Line, key.Value, strings.Join(known, ", "))
		}
	}
	if err := n.Decode(e); err != nil {
		return plainYAML(err)
	}
	for _, w := range [][]string{{"devices", e.Devices, "uuid", "partuuid", "label"}, {"initramfs", e.Initramfs, "regenerate", "inject", "auto", "none"}} {
		if w[1] != "" && !slices.Contains(w[2:], w[1]) {
			return fmt.Errorf("line %d: %s %q: choose one of %s", n.Line, w[0], w[1], strings.Join(w[2:], ", "))
		}
	}
	return nil
}

func strict(data []byte, into any) error {
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		return plainYAML(err)
	}
	return nil
}

// plainYAML says what YAML's error says, without the names of Go's types.
func plainYAML(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if before, _, ok := strings.Cut(text, " not found in type"); ok {
		text = strings.Replace(before, "field ", "unknown key ", 1)
	}
	return errors.New(strings.Join(strings.Fields(text), " "))
}

// hostOf completes an entry with the flags.
func (a *app) hostOf(e entry) (host, error) {
	t, err := sshguest.ParseTarget(e.Host)
	if err != nil {
		return host{}, err
	}
	h := host{name: e.Host, target: a.target, fix: a.fix, sudo: cmp.Or(e.SudoPassword, a.sudoPassword)}
	h.target.Host, h.target.User = t.Host, cmp.Or(e.User, t.User)
	h.target.Port = cmp.Or(e.Port, t.Port, a.target.Port)
	if h.target.Port < 0 || h.target.Port > 65535 {
		return host{}, fmt.Errorf("%s: port %d is none", e.Host, h.target.Port)
	}
	if e.Identity != "" {
		h.target.Identities = []string{a.homePath(e.Identity)}
	}
	if e.KnownHosts != "" {
		h.target.KnownHosts = a.homePath(e.KnownHosts)
	}
	if e.AcceptNew != nil {
		h.target.AcceptNew = *e.AcceptNew
	}
	if len(e.Fix) > 0 {
		h.fix.Only = e.Fix
	}
	if len(e.Skip) > 0 {
		h.fix.Skip = e.Skip
	}
	h.fix.Devices, h.fix.Initramfs = cmp.Or(e.Devices, a.fix.Devices), cmp.Or(e.Initramfs, a.fix.Initramfs)
	return h, nil
}

func (a *app) homePath(name string) string {
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		return filepath.Join(a.Home, rest)
	}
	return name
}

// runHosts repairs every guest of the file, several at once, and shows one table.
func (a *app) runHosts(ctx context.Context) error {
	list, err := a.readHosts(a.hosts)
	if err != nil {
		return err
	}
	results := make([]outcome, len(list))
	var printing sync.Mutex
	group := errgroup.Group{}
	group.SetLimit(a.parallel)
	for i, h := range list {
		group.Go(func() error {
			var text bytes.Buffer
			o, err := a.repair(ctx, h, &text)
			results[i] = o
			printing.Lock()
			defer printing.Unlock()
			return a.showHost(h, o, err, &text)
		})
	}
	if err := group.Wait(); err != nil {
		return api.NewError(api.CodeOutput, "print to", "stdout", err)
	}
	a.exit = worst(results)
	if a.json {
		a.printed = true
		return printJSON(a.Stdout, map[string]any{"version": api.Version, "hosts": results})
	}
	a.showTable(results)
	return nil
}

// showHost prints what was kept back while other guests were worked on.
func (a *app) showHost(h host, o outcome, err error, text *bytes.Buffer) error {
	if a.json {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintf(a.Stdout, "\n== %s\n", plaintext.Safe(h.name))
	if _, e := text.WriteTo(a.Stdout); e != nil {
		return e
	}
	if err != nil {
		printError(a.Stderr, o.Report.Error)
		fmt.Fprintf(a.Stderr, "code: %s\nnext: %s\n", o.Report.Error.Code, next(o.Report.Error.Code))
	}
	return nil
}

func (a *app) showTable(results []outcome) {
	rows := [][]string{{"GUEST", "RESULT", "CHANGED", "TIME", "CODE", "DETAIL"}}
	for _, o := range results {
		result, code, detail := string(o.Report.Status), "", ""
		if e := o.Report.Error; e != nil {
			code, detail = string(e.Code), e.Reason
		} else {
			detail = a.verdict(o.Report)
		}
		rows = append(rows, []string{o.Host, result, fmt.Sprint(count(o.Report, "changed")), fmt.Sprintf("%.1f s", o.Seconds), code, detail})
	}
	fmt.Fprintln(a.Stdout)
	plaintext.Table(a.Stdout, rows)
}

// worst is the exit code of several runs: an interruption, then a failure, then
// what was only refused.
func worst(results []outcome) int {
	codes := map[int]bool{}
	for _, o := range results {
		codes[exitOf(o.Report)] = true
	}
	for _, c := range []int{exit.Interrupted, exit.Failed, exit.Usage, exit.Refused} {
		if codes[c] {
			return c
		}
	}
	return exit.Done
}

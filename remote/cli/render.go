package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/api/plaintext"
)

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.out, format, args...)
}

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}

// table prints rows in columns; cells are made safe.
func (a *app) table(rows [][]string) {
	plaintext.Table(a.out, rows)
}

// showGuest prints what inspection found.
func (a *app) showGuest(g *api.GuestFacts) {
	if g == nil {
		return
	}
	rows := [][]string{
		{"guest", g.OS.Name, g.Arch},
		{"hostname", g.Hostname, ""},
		{"firmware", g.Firmware, ""},
		{"boot loader", g.Loader.Kind, strings.Join(g.Loader.Loaders, " ")},
		{"initramfs", g.Initramfs, ""},
		{"network", strings.Join(g.Network, ", "), ""},
	}
	for _, k := range g.Kernels {
		note := k.Unfit
		if k.Default {
			note = strings.TrimSuffix("default, "+note, ", ")
		}
		rows = append(rows, []string{"kernel", k.Version, note})
	}
	for _, need := range []string{g.Needs.CPU, g.Needs.Machine, g.Needs.Virtio, g.Needs.NIC} {
		if need != "" {
			rows = append(rows, []string{"needs", need, ""})
		}
	}
	for _, n := range g.NICs {
		rows = append(rows, []string{"NIC", n.Name, strings.TrimSpace(n.MAC + " " + from(n.From))})
	}
	for _, t := range g.Tools {
		rows = append(rows, []string{"tools", t, ""})
	}
	a.table(rows)
	a.printf("\n")
	a.showFilesystems(g)
	for _, w := range g.Warnings {
		a.printf("note: %s\n", safe(w))
	}
}

func from(file string) string {
	if file == "" {
		return ""
	}
	return "(" + file + ")"
}

func (a *app) showFilesystems(g *api.GuestFacts) {
	mounts := map[string]string{}
	for _, m := range g.Mounts {
		if m.UUID != "" {
			mounts[m.UUID] = strings.TrimSpace(m.Point + "  " + m.Spec)
		}
	}
	rows := [][]string{{"WHERE", "TYPE", "SIZE", "UUID", "MOUNTED AS"}}
	for _, f := range g.Filesystems {
		where := f.Volume
		if where == "" {
			where = fmt.Sprintf("disk %d, partition %d", f.Disk+1, f.Partition)
		}
		used := mounts[f.UUID]
		if f.LUKS != nil {
			used = "not opened: no key"
			if f.LUKS.Opened {
				used = "opened"
			}
		}
		rows = append(rows, []string{where, f.Type, size(f.Size), f.UUID, used})
	}
	a.table(rows)
}

// showFixes prints the diff of each fix and what was left, and why.
func (a *app) showFixes(r *api.Report) {
	for _, f := range r.Fixes {
		switch f.State {
		case "changed", "planned":
			a.printf("\n%s (%s)\n%s\n", f.ID, f.State, indent(safe(f.Why)))
			a.showDiff(f.Diff)
		}
		if f.State == "skipped" {
			continue // its note says that it does not apply
		}
		for _, n := range f.Notes {
			a.printf("  note, %s: %s\n", f.ID, safe(n))
		}
	}
}

// showFindings prints what a planned repair is for.
func (a *app) showFindings(r *api.Report) {
	var rows [][]string
	for _, f := range r.Fixes {
		if f.State == "planned" {
			rows = append(rows, []string{"  " + f.ID, f.Why})
		}
	}
	if len(rows) == 0 {
		if len(r.Fixes) > 0 {
			a.printf("\nnothing to repair\n")
		}
		return
	}
	a.printf("\nto repair before it runs on KVM (h2k fix --dry-run shows each change):\n")
	a.table(rows)
}

// showFixFailures names the fixes that failed, before the error itself.
func (a *app) showFixFailures(r *api.Report) {
	for _, f := range r.Fixes {
		if f.State == "failed" {
			for _, n := range f.Notes {
				fmt.Fprintf(a.Stderr, "%s: %s\n", f.ID, safe(n))
			}
		}
	}
}

// colours are for people only, and not for those who said so (no-color.org).
func (a *app) colours() bool { return a.StdoutTerminal && a.Getenv("NO_COLOR") == "" }

func (a *app) showDiff(diff string) {
	plaintext.Diff(a.out, diff, a.colours())
}

// showFixSummary prints one line a fix.
func (a *app) showFixSummary(r *api.Report) {
	if len(r.Fixes) == 0 {
		return
	}
	rows := [][]string{}
	for _, f := range r.Fixes {
		rows = append(rows, []string{f.ID, f.State, f.Why})
	}
	a.printf("\n")
	a.table(rows)
}

// showVerdicts prints the outcome of each boot and its evidence.
func (a *app) showVerdicts(r *api.Report) {
	if len(r.Verdicts) == 0 {
		return
	}
	rows := [][]string{{"BUS", "VERDICT", "AFTER", "BECAUSE"}}
	for _, v := range r.Verdicts {
		rows = append(rows, []string{v.Bus, string(v.State), fmt.Sprintf("%.0f s", v.Seconds), v.Why})
	}
	a.printf("\n")
	a.table(rows)
	for _, v := range r.Verdicts {
		a.showEvidence(v)
	}
}

func (a *app) showEvidence(v api.Verdict) {
	for _, i := range v.Interfaces {
		a.printf("%s: %s\n", v.Bus, safe(strings.TrimSpace(i.Name+" "+i.MAC+" "+strings.Join(i.Addresses, " "))))
	}
	if len(v.FailedUnits) > 0 {
		a.printf("%s: failed units: %s\n", v.Bus, safe(strings.Join(v.FailedUnits, ", ")))
	}
	if v.Screenshot != "" {
		a.printf("%s: picture of the screen: %s\n", v.Bus, short(v.Screenshot))
	}
	if v.Console != "" {
		a.printf("%s: text of the console: %s\n", v.Bus, short(v.Console))
	}
}

// showOutputs prints what was written.
func (a *app) showOutputs(r *api.Report) {
	var rows [][]string
	for _, d := range r.Disks {
		if d.Output == "" {
			continue
		}
		rows = append(rows, []string{"disk", short(d.Output), size(d.Written) + " of " + size(d.Size)})
		if d.Digest != "" {
			rows = append(rows, []string{"content", d.Digest, ""})
		}
	}
	if r.Target != nil && r.Target.Domain != "" {
		rows = append(rows, []string{"machine", short(r.Target.Domain), "virsh define it"})
	}
	for _, p := range r.Outputs {
		rows = append(rows, []string{"report", short(p), ""})
	}
	if len(rows) > 0 {
		a.printf("\n")
		a.table(rows)
	}
}

// showTime prints what the time went to.
func (a *app) showTime(r *api.Report) {
	var parts []string
	for _, s := range r.Stages {
		parts = append(parts, fmt.Sprintf("%s %.1f s", s.Stage, s.Seconds))
	}
	if len(parts) > 0 {
		a.printf("\ntime: %s", strings.Join(parts, ", "))
		if r.Accel != "" {
			a.printf("; %s", safe(r.Accel))
		}
		a.printf("\n")
	}
}

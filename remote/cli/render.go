package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"hyper2kvm/agent/api"
)

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.Stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}

// table prints rows in columns; cells are made safe.
func (a *app) table(rows [][]string) {
	w := tabwriter.NewWriter(a.Stdout, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = safe(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // stdout's errors show at the next print
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
		note := ""
		if k.Default {
			note = "default"
		}
		rows = append(rows, []string{"kernel", k.Version, note})
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
		rows = append(rows, []string{where, f.Type, size(f.Size), f.UUID, mounts[f.UUID]})
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
		for _, n := range f.Notes {
			a.printf("  note, %s: %s\n", f.ID, safe(n))
		}
	}
}

// showFixFailures names the fixes that failed, before the error itself.
func (a *app) showFixFailures(r *api.Report) {
	if r == nil {
		return
	}
	for _, f := range r.Fixes {
		if f.State == "failed" {
			for _, n := range f.Notes {
				fmt.Fprintf(a.Stderr, "%s: %s\n", f.ID, safe(n))
			}
		}
	}
}

const (
	red         = "\x1b[31m"
	green       = "\x1b[32m"
	cyan        = "\x1b[36m"
	plainColour = "\x1b[0m"
)

func (a *app) colours() bool { return a.Terminal && a.Getenv("NO_COLOR") == "" }

func (a *app) showDiff(diff string) {
	for l := range strings.Lines(diff) {
		l = safeLines(strings.TrimRight(l, "\n"))
		if a.colours() {
			l = colour(l)
		}
		a.printf("  %s\n", l)
	}
}

func colour(l string) string {
	switch {
	case strings.HasPrefix(l, "+"):
		return green + l + plainColour
	case strings.HasPrefix(l, "-"):
		return red + l + plainColour
	case strings.HasPrefix(l, "@@"):
		return cyan + l + plainColour
	}
	return l
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
	for _, v := range r.Verdicts {
		a.printf("\n%s: %s after %.0f s\n", v.Bus, strings.ToUpper(string(v.State)), v.Seconds)
		a.printf("  %s\n", safe(v.Why))
		for _, i := range v.Interfaces {
			a.printf("  %s %s %s\n", safe(i.Name), safe(i.MAC), safe(strings.Join(i.Addresses, " ")))
		}
		if len(v.FailedUnits) > 0 {
			a.printf("  failed units: %s\n", safe(strings.Join(v.FailedUnits, ", ")))
		}
		if v.Screenshot != "" {
			a.printf("  picture: %s\n", v.Screenshot)
		}
		if v.Console != "" {
			a.printf("  console: %s\n", v.Console)
		}
	}
}

// showOutputs prints what was written.
func (a *app) showOutputs(r *api.Report) {
	a.printf("\n")
	for _, d := range r.Disks {
		if d.Output != "" {
			a.printf("%s\n", d.Output)
		}
		if d.Digest != "" {
			a.printf("  %s\n", d.Digest)
		}
	}
	if r.Target != nil && r.Target.Domain != "" {
		a.printf("%s\n", r.Target.Domain)
	}
	for _, p := range r.Outputs {
		a.printf("%s\n", p)
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

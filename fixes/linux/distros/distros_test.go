// Package distros plans the repair of whole guests, one a distribution: trees
// that are written as those distributions write theirs, from what lies below the
// files to what a migration would show its user.
//
// testdata/NAME.txtar is a guest. The member "disks" says what no file of it
// tells (machine_test.go); members with special endings are made from a few
// lines (build_test.go); all else are files of the guest. What the guest is found
// to be, what its first boot on KVM would trip over as it is (leftovers_test.go),
// what the fixes change, what they say, and what is left to trip over stands in
// testdata/NAME.golden, which
//
//	go test ./fixes/linux/distros -update
//
// writes, to be read by eye.
package distros

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
	"hyper2kvm/fixes/linux"
	"hyper2kvm/fixes/linux/initramfs"
)

var update = flag.Bool("update", false, "write the golden files, to be read by eye")

func TestDistros(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no guests: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			testDistro(t, file)
		})
	}
}

func testDistro(t *testing.T, file string) {
	m, tree := load(t, file)
	before := tree.Dump()
	g := &guest.Guest{FS: tree, Facts: inspect.Inspect(tree, m.facts(tree))}
	golden := &txtar.Archive{Files: []txtar.File{
		{Name: "facts", Data: []byte(describe(g.Facts))},
		{Name: "before", Data: []byte(strings.Join(leftovers(t, tree, g), ""))},
	}}
	planned, err := plan(t, g, m)
	if tree.Dump() != before {
		t.Fatal("planning changed the guest")
	}
	if _, refused := errors.AsType[*fixes.FatalError](err); refused {
		golden.Files = append(golden.Files, txtar.File{Name: "refused", Data: []byte(err.Error() + "\n")})
		compare(t, strings.TrimSuffix(file, ".txtar")+".golden", golden)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
		t.Fatal(err)
	}
	// As a second run sees the guest: all of it looked at anew.
	again := &guest.Guest{FS: tree, Facts: inspect.Inspect(tree, m.facts(tree))}
	if second, err := plan(t, again, m); err != nil || second.Pending() {
		t.Errorf("a second run changes more: %v\n%s", err, diffs(second))
	}
	_, original := load(t, file)
	golden.Files = append(golden.Files,
		txtar.File{Name: "fixes", Data: []byte(summary(planned))},
		txtar.File{Name: "diff", Data: []byte(indent(difference(t, original, tree)))},
		txtar.File{Name: "notes", Data: []byte(notes(planned))},
		txtar.File{Name: "left", Data: []byte(strings.Join(leftovers(t, original, again), ""))},
	)
	compare(t, strings.TrimSuffix(file, ".txtar")+".golden", golden)
	if planned.Pending() || slices.ContainsFunc(planned.Results, func(r fixes.Result) bool { return r.State == fixes.Changed }) {
		if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(before, tree.Dump()); d != "" {
		t.Errorf("undo does not give back what was (-want +got):\n%s", d)
	}
}

// load reads a guest: what lies below its files, and the files.
func load(t *testing.T, file string) (*machine, *guesttest.FS) {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(archive.Comment), "expected:") {
		t.Errorf("%s does not say what is expected", file)
	}
	var m *machine
	var files []txtar.File
	for _, f := range archive.Files {
		if f.Name != "disks" {
			files = append(files, f)
		} else if m, err = parseMachine(string(f.Data)); err != nil {
			t.Fatalf("%s: disks: %v", file, err)
		}
	}
	if m == nil {
		t.Fatalf("%s has no disks", file)
	}
	return m, build(t, files)
}

func plan(t *testing.T, g *guest.Guest, m *machine) (*fixes.Planned, error) {
	list := linux.All(linux.Options{Devices: m.devices}, initramfs.Fixes(initramfs.Options{}))
	return fixes.Plan(t.Context(), g, list, fixes.Selection{})
}

// compare holds the golden file against what came out, or writes it.
func compare(t *testing.T, file string, got *txtar.Archive) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(txtar.Format(want)), string(txtar.Format(got))); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

// describe prints the facts that inspection must get right.
func describe(f *guest.Facts) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("os: %s %s %s like %v: %s", f.OS.Family, f.OS.ID, f.OS.Version, f.OS.IDLike, f.OS.Name)
	line("machine: %s %s, host %s, init %s, selinux %s", f.Arch, f.Firmware, f.Hostname, f.Init, f.SELinux)
	for _, k := range f.Kernels {
		mark := ""
		if k.Default {
			mark = " (default)"
		}
		line("kernel: %s%s: %s + %s, %s", k.Version, mark, k.Image, k.Initramfs, k.Modules)
		b.WriteString(others(k, "version", "image", "initramfs", "modules", "default"))
	}
	line("initramfs: %s", f.Initramfs)
	line("loader: %s, esp %s", f.Loader.Kind, f.Loader.ESP)
	b.WriteString(others(f.Loader, "kind", "configs", "esp", "loaders", "entries"))
	for _, c := range f.Loader.Configs {
		line("  config %s", c)
	}
	for _, c := range f.Loader.Loaders {
		line("  program %s", c)
	}
	line("network: %s", strings.Join(f.Network, " "))
	for _, n := range f.NICs {
		line("  nic %s %q from %s", n.MAC, n.Name, n.From)
	}
	for _, e := range f.Fstab {
		line("fstab: %s on %s is %s", e.Spec, e.Point, e.UUID)
	}
	line("tools: %s", strings.Join(f.Tools, " "))
	b.WriteString(others(f, "os", "arch", "hostname", "firmware", "init", "disks", "filesystems", "mounts", "fstab",
		"kernels", "initramfs", "boot_loader", "network", "nics", "tools", "selinux", "target_bus", "warnings"))
	for _, w := range f.Warnings {
		line("warning: %s", w)
	}
	return regexp.MustCompile(`(?m) +$`).ReplaceAllString(b.String(), "")
}

// others prints what facts have beside those that describe knows, so that a new
// fact of inspection is seen for every distribution.
func others(facts any, known ...string) string {
	data, err := json.Marshal(facts)
	all := map[string]json.RawMessage{}
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(known, key) {
			fmt.Fprintf(&b, "  %s: %s\n", key, all[key])
		}
	}
	return b.String()
}

// summary says which fix changes what.
func summary(p *fixes.Planned) string {
	var b strings.Builder
	for _, r := range p.Results {
		switch {
		case r.Err != nil:
			fmt.Fprintf(&b, "%s: FAILED: %v\n", r.ID, r.Err)
		case len(r.Changes) > 0:
			fmt.Fprintf(&b, "%s:\n", r.ID)
		}
		for _, c := range r.Changes {
			fmt.Fprintf(&b, "  %s\n", what(c))
		}
	}
	return b.String()
}

func what(c fixes.Change) string {
	switch c := c.(type) {
	case fixes.AppendFile:
		return "append to " + c.Name + ": " + c.Note
	case fixes.CopyFile:
		return "copy " + c.From + " to " + c.Name
	case fixes.Symlink:
		return "link " + c.Name + " to " + c.To
	case fixes.Remove:
		return "remove " + c.Name
	case fixes.Command:
		return "run " + strings.Join(c.Command.Args, " ")
	}
	return "write " + c.Target()
}

func notes(p *fixes.Planned) string {
	var b strings.Builder
	for _, r := range p.Results {
		for _, n := range r.Notes {
			if r.State != fixes.Skipped {
				fmt.Fprintf(&b, "%s: %s\n", strings.TrimPrefix(r.ID, "linux/"), n)
			}
		}
	}
	return b.String()
}

func diffs(p *fixes.Planned) string {
	var b strings.Builder
	for _, r := range p.Results {
		b.WriteString(r.Diff)
	}
	return b.String()
}

// difference is what all fixes together did to the guest's files, from the
// first byte to the last: a fix of its own, which only is asked for its diff.
func difference(t *testing.T, before, after *guesttest.FS) string {
	t.Helper()
	all := wholeChange(changesBetween(t, before, after, "."))
	planned, err := fixes.Plan(t.Context(), &guest.Guest{FS: before, Facts: &guest.Facts{}}, []fixes.Fix{all}, fixes.Selection{})
	if err != nil || planned.Failures() != nil {
		t.Fatal(err, planned.Failures())
	}
	return diffs(planned)
}

var (
	fill = regexp.MustCompile(`#{20,}`)
)

// indent keeps a diff from being read as archive members and its lines from
// ending in a blank, and what fills a grubenv from filling the screen.
func indent(diff string) string {
	var b strings.Builder
	for l := range strings.Lines(diff) {
		b.WriteString(strings.TrimRight("| "+strings.TrimSuffix(l, "\n"), " ") + "\n")
	}
	return fill.ReplaceAllStringFunc(b.String(), func(s string) string { return fmt.Sprintf("#(%d of them)", len(s)) })
}

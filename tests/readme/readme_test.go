// Package readme holds the README to what is there: its command lines are
// understood, its targets are in the Makefile, its rooms in the tree.
package readme

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/remote/cli"
	"hyper2kvm/remote/plan"
)

const top = "../.."

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// blocks are the lines of all ```sh blocks.
func blocks(text string) []string {
	var out []string
	in := false
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		switch {
		case l == "```sh":
			in = true
		case strings.HasPrefix(l, "```"):
			in = false
		case in && l != "" && !strings.HasPrefix(l, "#"):
			out = append(out, l)
		}
	}
	return out
}

// quoted are the `h2k …` and `make …` in the text.
func quoted(text, program string) []string {
	var out []string
	for _, m := range regexp.MustCompile("`(?:bin/)?("+program+" [^`]+)`").FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

func TestCommandLinesAreUnderstood(t *testing.T) {
	text, ran := read(t, "README.md"), 0
	for _, l := range blocks(text) {
		words := strings.Fields(strings.TrimPrefix(l, "sudo "))
		switch words[0] {
		case "bin/h2k", "h2k":
			ran++
			understood(t, l, words[1:])
		case "make":
			target(t, words[1])
		default:
			t.Errorf("%q: the README starts only h2k and make", l)
		}
	}
	if ran < 4 {
		t.Errorf("only %d command lines of h2k: the README is not read right", ran)
	}
}

// understood parses a command line as h2k does, and checks its arguments.
func understood(t *testing.T, line string, args []string) {
	t.Helper()
	cmd, rest, err := cli.Tree().Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil && !cmd.HasSubCommands() {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err != nil {
		t.Errorf("%q: %v", line, err)
	}
	if cmd == cmd.Root() {
		t.Errorf("%q names no command", line)
	}
}

func TestMentionedCommandsExist(t *testing.T) {
	text := read(t, "README.md")
	for _, l := range quoted(text, "h2k") {
		words := strings.Fields(l)[1:]
		cmd, rest, err := cli.Tree().Find(words)
		if err != nil || cmd == cmd.Root() && words[0] != "COMMAND" {
			t.Errorf("`%s`: no such command", l)
			continue
		}
		for _, w := range rest {
			if name, ok := strings.CutPrefix(w, "--"); ok && cmd.Flag(name) == nil && name != "help" {
				t.Errorf("`%s`: no such flag %s", l, w)
			}
		}
	}
	for _, l := range quoted(text, "make") {
		target(t, strings.Fields(l)[1])
	}
}

func target(t *testing.T, name string) {
	t.Helper()
	if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + `:`).MatchString(read(t, "Makefile")) {
		t.Errorf("make %s: no such target", name)
	}
}

func TestEveryCommandIsMentioned(t *testing.T) {
	text := read(t, "README.md")
	for _, c := range cli.Tree().Commands() {
		if !c.Hidden && c.Name() != "help" && !strings.Contains(text, "`h2k "+c.Name()) {
			t.Errorf("h2k %s is not in the README", c.Name())
		}
	}
}

func TestExitCodesAreThoseOfTheProgram(t *testing.T) {
	help := strings.Join(strings.Fields(cli.Tree().Long), " ")
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| (.+) \|$`).FindAllStringSubmatch(read(t, "README.md"), -1)
	for _, m := range rows {
		if !strings.Contains(help, m[1]+" "+m[2]) {
			t.Errorf("h2k --help does not say %q of exit code %s", m[2], m[1])
		}
	}
	_, list, _ := strings.Cut(help, "Exit codes: ")
	list, _, _ = strings.Cut(list, ".")
	if n := strings.Count(list, ";") + 1; n != len(rows) {
		t.Errorf("%d exit codes in the README, %d in h2k --help", len(rows), n)
	}
}

func TestRoomsAndLinksAreThere(t *testing.T) {
	text := read(t, "README.md")
	paths := regexp.MustCompile("`([a-z0-9]+(?:/[a-z0-9]+)*/)`").FindAllStringSubmatch(text, -1)
	paths = append(paths, regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1)...)
	if len(paths) < 10 {
		t.Errorf("only %d rooms and links", len(paths))
	}
	for _, m := range paths {
		if _, err := os.Stat(filepath.Join(top, m[1])); err != nil {
			t.Errorf("the README names %s: %v", m[1], err)
		}
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		// What git ignores is no room.
		if e.IsDir() && !strings.Contains(read(t, ".gitignore"), "/"+e.Name()+"/") && !strings.HasPrefix(e.Name(), ".") &&
			!strings.Contains(text, "| `"+e.Name()+"/` |") {
			t.Errorf("%s/ is not on the README's map", e.Name())
		}
	}
}

// TestCommandLinesRun runs what the README says of h2k, in its order, on a
// real guest. make demo and make test are run by CI; that --validate boots the
// result is what tests/e2e shows.
func TestCommandLinesRun(t *testing.T) {
	guest, bin := filepath.Join(top, "build/guests/debian12-bios.vmdk"), filepath.Join(top, "bin/h2k")
	for _, p := range []string{guest, bin, filepath.Join(top, "build/image/initramfs.img")} {
		_, err := os.Stat(p)
		if err != nil && os.Getenv("H2K_REQUIRE_VM") != "" {
			t.Fatalf("%v: make test builds it", err)
		}
		if err != nil || testing.Short() {
			t.Skipf("runs with virtual machines only: make test (%v)", err)
		}
	}
	dir := t.TempDir()
	for name, to := range map[string]string{"guest.vmdk": guest, "bin": filepath.Dir(bin)} {
		to, err := filepath.Abs(to)
		if err == nil {
			err = os.Symlink(to, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range blocks(read(t, "README.md")) {
		if strings.HasPrefix(l, "make ") {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-c", strings.ReplaceAll(l, " --validate", ""))
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", l, err, out)
		}
	}
	for _, name := range []string{"guest.qcow2", "guest.xml", "guest.report.json", "guest.report.html"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("the README promises %s: %v", name, err)
		}
	}
}

// TestExampleIsReal: the worked example shows what a run printed.
func TestExampleIsReal(t *testing.T) {
	_, example, _ := strings.Cut(read(t, "README.md"), "<!-- demo -->")
	example, _, _ = strings.Cut(example, "<!-- /demo -->")
	for _, part := range []string{"linux/fstab (changed)", "VERDICT", "virtio-blk", "virtio-scsi", "booted", "guest.virtio-blk.png", "guest.xml"} {
		if !strings.Contains(example, part) {
			t.Errorf("the worked example does not show %q", part)
		}
	}
}

func TestPlansAreRead(t *testing.T) {
	plans := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(plans) == 0 {
		t.Error("the README shows no plan")
	}
	for _, m := range plans {
		path := filepath.Join(t.TempDir(), "plan.yaml")
		if err := os.WriteFile(path, []byte(m[1]), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := plan.Load(path, api.Plan{})
		if err == nil {
			err = p.Check()
		}
		if err != nil {
			t.Error(err)
		}
	}
}

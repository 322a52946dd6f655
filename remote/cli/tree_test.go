package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// visibleCommands walks the commands that users see.
func visibleCommands(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			f(c)
			visibleCommands(c, f)
		}
	}
}

// TestEveryCommandIsDocumented: each has a line for its parent's list, a man
// page and a help that names its own flags.
func TestEveryCommandIsDocumented(t *testing.T) {
	dir := t.TempDir()
	if got := run(t, &recorder{}, "man", dir); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	n := 0
	root := Tree()
	visibleCommands(root, func(c *cobra.Command) {
		n++
		if c.Short == "" {
			t.Errorf("%s has no short text", c.CommandPath())
		}
		page := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		if _, err := os.Stat(filepath.Join(dir, page)); err != nil {
			t.Error(err)
		}
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		if got := run(t, &recorder{}, args...); got.code != 0 || !strings.Contains(got.out, "Usage:") {
			t.Errorf("%s --help: %+v", c.CommandPath(), got)
		}
	})
	if n < 14 {
		t.Errorf("only %d commands", n)
	}
}

func TestHelpAndCompletionOfWhatIsNotThere(t *testing.T) {
	for _, args := range []string{"help konvert", "completion tcsh", "image konvert", "disk --nonsense"} {
		if got := run(t, &recorder{}, strings.Fields(args)...); got.code != exitUsage {
			t.Errorf("h2k %s: %+v", args, got)
		}
	}
}

func TestMistypedCommandIsNamedNotItsFlags(t *testing.T) {
	for args, want := range map[string]string{
		"cnvert a -o b":      `unknown command "cnvert" for h2k; nearest is "convert"`,
		"disk cnvert a -o b": `unknown command "cnvert" for h2k disk; nearest is "convert"`,
		"help cnvert":        `unknown command "cnvert" for h2k`,
	} {
		if got := run(t, &recorder{}, strings.Fields(args)...); got.code != exitUsage || !strings.Contains(got.errOut, want) {
			t.Errorf("h2k %s: %+v, want %s", args, got, want)
		}
	}
}

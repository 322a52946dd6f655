package fixes

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestDiffAppliesWithGit is the promise of a dry run: what it shows is a patch.
func TestDiffAppliesWithGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is the oracle and is not here")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		old, now := randomText(rng), ""
		now = mutate(rng, old)
		before, after := guesttest.Empty(), guesttest.Empty()
		if old != "" {
			before.Put("etc/some file", []byte(old))
		}
		if now != "" || old == "" {
			after.Put("etc/some file", []byte(now))
		}
		diff, err := diffName(before, after, "etc/some file")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		name := filepath.Join(dir, "etc", "some file")
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if old != "" {
			if err := os.WriteFile(name, []byte(old), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if old == now {
			continue
		}
		cmd := exec.Command("git", "apply", "--whitespace=nowarn", "-")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(diff)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git apply: %v: %s\n%s", err, out, diff)
		}
		got, err := os.ReadFile(name)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if string(got) != now {
			t.Fatalf("the diff makes %q, want %q:\n%s", got, now, diff)
		}
	}
}

func randomText(rng *rand.Rand) string {
	var b strings.Builder
	for range rng.IntN(40) {
		b.WriteString([]string{"a", "bb", "", "word word", "}"}[rng.IntN(5)])
		b.WriteByte('\n')
	}
	if rng.IntN(3) == 0 {
		b.WriteString("no newline")
	}
	return b.String()
}

func mutate(rng *rand.Rand, text string) string {
	parts := lines([]byte(text))
	var b strings.Builder
	for _, line := range parts {
		switch rng.IntN(8) {
		case 0:
			continue
		case 1:
			b.WriteString("new\n")
		}
		b.WriteString(line)
	}
	if rng.IntN(3) == 0 {
		b.WriteString("end")
	}
	return b.String()
}

func TestDiffForms(t *testing.T) {
	before := guesttest.New(t, "-- mode mode=0600 --\nx\n-- gone link=target --\n-- bin --\nx\n-- file --\nx\n-- own --\nx\n")
	after := guesttest.New(t, "-- mode mode=0644 --\nx\n-- new mode=0640 --\na\n-- file link=x --\n-- own uid=5 --\nx\n")
	before.Put("bin", []byte("a\x00b"))
	after.Put("bin", []byte("a\x1b[2Jb"))
	for name, want := range map[string][]string{
		"mode": {"old mode 100600\nnew mode 100644\n"},
		"gone": {"deleted file mode 120000\n", "--- a/gone\n+++ /dev/null\n", "-target\n"},
		"new":  {"new file mode 100640\n", "--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+a\n"},
		"bin":  {"Binary files a/bin and b/bin differ (3 -> 6 bytes)\n"},
		"file": {"deleted file mode 100644\n", "new file mode 120000\n", "+x\n\\ No newline"},
		"own":  {"# owner of own: 0:0 -> 5:0\n"},
	} {
		diff, err := diffName(before, after, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range want {
			if !strings.Contains(diff, part) {
				t.Errorf("%s: no %q in:\n%s", name, part, diff)
			}
		}
		if strings.Contains(diff, "\x1b") {
			t.Errorf("%s: an escape sequence of the guest reaches the terminal", name)
		}
	}
}

// FuzzCompare: an edit script turns the one text into the other.
func FuzzCompare(f *testing.F) {
	f.Add("a\nb\nc\n", "a\nc\nd")
	f.Add("", "x\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		var old, now strings.Builder
		for _, e := range compare(lines([]byte(a)), lines([]byte(b))) {
			if e.op != '+' {
				old.WriteString(e.line)
			}
			if e.op != '-' {
				now.WriteString(e.line)
			}
		}
		if old.String() != a || now.String() != b {
			t.Errorf("script of %q to %q gives %q and %q", a, b, old.String(), now.String())
		}
	})
}

// FuzzJournal: a hostile journal never makes undo write outside what it names,
// nor panic.
func FuzzJournal(f *testing.F) {
	tree := guesttest.New(f, engineTree)
	g := &guest.Guest{FS: tree, Facts: &guest.Facts{}}
	if _, err := planAndApply(g, engineFixes()); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(tree.ReadFile(f, journalName)))
	f.Add([]byte(`{"version":1,"phase":"undoing","entries":[{"path":"etc/fstab","before":{"kind":"file","backup":"../x"},"after":{"kind":"file"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := parseJournal(data)
		if err != nil {
			return
		}
		for _, e := range j.Entries {
			for _, s := range []*state{e.Original, e.Run} {
				if s != nil && (strings.ContainsAny(s.Backup, "/.") || !fs.ValidPath(e.Path)) {
					t.Errorf("accepted %+v", s)
				}
			}
		}
		tree := guesttest.New(t, engineTree)
		tree.Put(journalName, data)
		_, _ = undo(t.Context(), tree, true)
	})
}

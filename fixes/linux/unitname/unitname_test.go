package unitname

import (
	"os/exec"
	"strings"
	"testing"
)

// cases are what systemd-escape --path gives.
func cases() map[string]string {
	return map[string]string{
		"/dev/sda1":                 "dev-sda1",
		"/dev/disk/by-uuid/0a1b-2c": `dev-disk-by\x2duuid-0a1b\x2d2c`,
		"/srv/.data":                "srv-.data", "/.data": `\x2edata`, "/": "-",
		"/dev/disk/by-path/pci-0000:03:00.0": `dev-disk-by\x2dpath-pci\x2d0000:03:00.0`,
		"/a b":                               `a\x20b`,
	}
}

func TestNames(t *testing.T) {
	for name, want := range cases() {
		if got := Escape(name, ".mount"); got != want+".mount" {
			t.Errorf("Escape(%s) = %s, want %s", name, got, want)
		}
		if got, ok := Unescape(want+".mount", ".mount"); got != name || !ok {
			t.Errorf("Unescape(%s) = %s, %v", want, got, ok)
		}
	}
	for _, bad := range []string{"", "a.mount", `a\x2.swap`, `a\xzz.swap`, "a--b.swap", `\x00.swap`, "a b.swap", "-a.swap"} {
		if got, ok := Unescape(bad, ".swap"); ok {
			t.Errorf("Unescape(%q) = %q", bad, got)
		}
	}
}

// TestSystemdAgrees asks the real one.
func TestSystemdAgrees(t *testing.T) {
	if _, err := exec.LookPath("systemd-escape"); err != nil {
		t.Skip("systemd-escape is not installed")
	}
	for name, want := range cases() {
		out, err := exec.Command("systemd-escape", "--path", name).Output()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("systemd-escape --path %s gives %s, %v", name, out, err)
		}
	}
}

// FuzzUnescape: what is read as a path is written as the same name again, but
// for how its escapes are spelt.
func FuzzUnescape(f *testing.F) {
	for _, name := range cases() {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, unit string) {
		name, ok := Unescape(unit, "")
		if !ok {
			return
		}
		again, ok := Unescape(Escape(name, ""), "")
		if !ok || again != name {
			t.Errorf("%q is %q and then %q", unit, name, again)
		}
	})
}

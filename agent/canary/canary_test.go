package canary

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

func TestChangesNeedSystemd(t *testing.T) {
	if _, err := Changes(nil, &guest.Facts{Init: "openrc"}); !errors.Is(err, ErrInit) {
		t.Errorf("error %v, want ErrInit", err)
	}
}

func TestLabelsOnlyWhereSELinuxIs(t *testing.T) {
	for mode, want := range map[string]bool{"": false, "disabled": false, "permissive": true, "enforcing": true} {
		list, err := Changes([]byte("x"), &guest.Facts{Init: "systemd", SELinux: mode})
		if err != nil {
			t.Fatal(err)
		}
		label := list[0].(fixes.WriteFile).Attr.Xattrs["security.selinux"]
		if got := strings.Contains(string(label), ":bin_t:"); got != want {
			t.Errorf("SELinux %q: label %q", mode, label)
		}
	}
}

// TestUnitIsValid has systemd itself look at the unit.
func TestUnitIsValid(t *testing.T) {
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze")
	}
	root := t.TempDir()
	list, err := Changes([]byte("#!/bin/true\n"), &guest.Facts{Init: "systemd"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		w, ok := c.(fixes.WriteFile)
		if !ok {
			continue
		}
		path := filepath.Join(root, w.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, w.Content, w.Attr.Mode); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(tool, "verify", "--man=no", "--root="+root, "h2k-canary.service").CombinedOutput()
	if strings.Contains(string(out), "h2k-canary.service:") {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}
